#include "kernels/cpu/solve_panel.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace gptq {
namespace {

constexpr std::int64_t kRows = kSolveRows;
constexpr std::int64_t kDepth =
    128;  // rows of R packed at a time: with 128 columns they fit half of an L2 cache

std::vector<float> panel(std::int64_t columns) {
  return std::vector<float>(static_cast<std::size_t>(columns * kRows));
}

}  // namespace

PanelSolver::PanelSolver(const SolvePlan& plan)
    : plan_(plan),
      table_(solve_table()),
      w_(panel(plan.columns.n)),
      difference_(panel(plan.columns.n)),
      codes_(w_.size()),
      scale_(panel(plan.columns.groups)),
      zero_(panel(plan.columns.groups)),
      values_(panel(kSolveBatch)),
      errors_(panel(kSolveBatch)),
      product_(panel(kSolveBatch)),
      projected_(panel(kSolveBatch)),
      packed_(static_cast<std::size_t>(kDepth * kSolveBatch)),
      ahead_(panel(plan.widest_search)),
      ahead_weight_(static_cast<std::size_t>(plan.widest_search)),
      search_scratch_(panel((static_cast<std::int64_t>(plan.shrink.size()) + 3) / 4 * 4 * kSearchArrays)) {}

void PanelSolver::solve(const RowsToSolve& part, const RowPanel& rows, QuantizedRows& result) {
  for (std::int64_t r = 0; r < kRows; ++r)
    loss_[r] = distance_[r] = norm_[r] = weight_norm_[r] = dead_norm_[r] = 0;
  load_weights(part.weight, rows);
  search_scales_ = part.scales == nullptr;
  if (!search_scales_)
    load_grids(part.scales, part.zeros, plan_.columns.groups, rows, plan_.max_code, scale_.data(),
               zero_.data());
  else if (!plan_.options.refit_every_group)
    fix_scales();
  for (std::size_t index = 0; index < plan_.batches.size(); ++index) solve_batch(index);
  store(rows, result);
}

/// Dead columns become 0.
void PanelSolver::load_weights(const Matrix& w, const RowPanel& rows) {
  load_rows(w, rows, plan_.position, w_.data());
  table_.add_squares(w_.data(), plan_.columns.n, weight_norm_);
  for (std::int64_t c = 0; c < plan_.columns.n; ++c) {
    if (!plan_.columns.dead[static_cast<std::size_t>(c)]) continue;
    float* column = w_.data() + plan_.position[static_cast<std::size_t>(c)] * kRows;
    table_.add_squares(column, 1, dead_norm_);
    std::fill(column, column + kRows, 0.0f);
  }
}

/// Scales of all groups from the original weights.
void PanelSolver::fix_scales() {
  for (std::size_t group = 0; group < plan_.group_positions.size(); ++group) {
    const auto& positions = plan_.group_positions[group];
    for (std::size_t k = 0; k < positions.size(); ++k) {
      const float* column = w_.data() + positions[k] * kRows;
      std::copy(column, column + kRows, ahead_.data() + k * kRows);
      ahead_weight_[k] = plan_.weight[static_cast<std::size_t>(positions[k])];
    }
    search(ahead_.data(), ahead_weight_.data(), static_cast<std::int64_t>(positions.size()),
           static_cast<std::int32_t>(group));
  }
}

void PanelSolver::search(const float* values, const float* weight, std::int64_t columns, std::int32_t group) {
  SearchTask task{};
  task.x = values;
  task.weight = weight;
  task.columns = columns;
  task.max_code = plan_.max_code;
  task.sym = plan_.options.sym;
  task.two_zeros = plan_.two_zeros;
  task.norm = static_cast<float>(plan_.options.norm);
  task.candidates = static_cast<long>(plan_.shrink.size());
  task.shrink = plan_.shrink.data();
  task.scratch = search_scratch_.data();
  task.scale = scale_.data() + group * kRows;
  task.zero = zero_.data() + group * kRows;
  table_.search(task);
}

void PanelSolver::solve_batch(std::size_t index) {
  const SolveBatch& batch = plan_.batches[index];
  for (const SolveSegment& segment : batch.segments)
    if (search_scales_ && segment.search_count > segment.count) search_ahead(index, segment);

  if (plan_.r != nullptr) project(index, true);
  update_values(index);
  for (const SolveSegment& segment : batch.segments) {
    const std::int64_t offset = segment.first - batch.first;
    if (plan_.r != nullptr && offset > 0)
      table_.propagate(values_.data(), errors_.data(), plan_.triangles[index].inverse.data(), offset,
                       offset + segment.count, 0, offset);
    if (search_scales_ && segment.search_count > 0 && segment.search_count == segment.count)
      search(values_.data() + offset * kRows, plan_.weight.data() + segment.first, segment.count,
             plan_.group[static_cast<std::size_t>(segment.first)]);
    quantize(index, segment);
  }
}

/// product = (W_P - Q_P) R_{P,B} over the columns P before the batch; with_norm: also norm += |(W R)_B|².
void PanelSolver::project(std::size_t index, bool with_norm) {
  const SolveBatch& batch = plan_.batches[index];
  const long tiles = (batch.count + 3) / 4;
  std::fill(product_.begin(), product_.end(), 0.0f);
  if (with_norm)
    table_.multiply(w_.data() + batch.first * kRows, plan_.triangles[index].packed.data(), batch.count, tiles,
                    true, false, projected_.data());
  for (std::int64_t done = 0; done < batch.first; done += kDepth) {
    const std::int64_t depth = std::min(kDepth, batch.first - done);
    table_.pack(plan_.r + done * plan_.columns.n + batch.first, plan_.columns.n, depth, batch.count,
                packed_.data());
    table_.multiply(difference_.data() + done * kRows, packed_.data(), depth, tiles, false, true,
                    product_.data());
    if (with_norm)
      table_.multiply(w_.data() + done * kRows, packed_.data(), depth, tiles, false, true, projected_.data());
  }
  if (with_norm) table_.add_squares(projected_.data(), batch.count, norm_);
}

/// values = W_B + product · R_BB^-1
void PanelSolver::update_values(std::size_t index) {
  const SolveBatch& batch = plan_.batches[index];
  const float* w = w_.data() + batch.first * kRows;
  std::copy(w, w + batch.count * kRows, values_.data());
  if (plan_.r == nullptr || batch.first == 0) return;
  table_.multiply(product_.data(), plan_.triangles[index].packed_inverse.data(), batch.count,
                  (batch.count + 3) / 4, true, true, values_.data());
}

/// Finds the scale of a group wider than its batch. Its up-to-date values are those of a solve that makes no
/// error inside the group (Q = V); the differences it leaves behind are overwritten when the batches are
/// solved.
void PanelSolver::search_ahead(std::size_t index, const SolveSegment& segment) {
  const float* values = w_.data() + segment.first * kRows;
  if (plan_.r != nullptr && segment.first > 0) {
    const std::int64_t last = segment.first + segment.search_count;
    for (std::size_t k = index; k < plan_.batches.size() && plan_.batches[k].first < last; ++k) {
      const SolveBatch& batch = plan_.batches[k];
      const std::int64_t columns = std::min(batch.count, last - batch.first);
      project(k, false);
      update_values(k);
      std::copy_n(values_.data(), columns * kRows, ahead_.data() + (batch.first - segment.first) * kRows);
      for (std::int64_t i = 0; i < columns * kRows; ++i) {
        const auto place = static_cast<std::size_t>(batch.first * kRows + i);
        difference_[place] = w_[place] - values_[static_cast<std::size_t>(i)];
      }
    }
    values = ahead_.data();
  }
  search(values, plan_.weight.data() + segment.first, segment.search_count,
         plan_.group[static_cast<std::size_t>(segment.first)]);
}

void PanelSolver::quantize(std::size_t index, const SolveSegment& segment) {
  const SolveBatch& batch = plan_.batches[index];
  ColumnsTask task{};
  task.first = segment.first - batch.first;
  task.last = task.first + segment.count;
  task.v = values_.data();
  task.w = w_.data() + batch.first * kRows;
  task.inverse = plan_.r == nullptr ? nullptr : plan_.triangles[index].inverse.data();
  task.pivot = plan_.r == nullptr ? nullptr : plan_.triangles[index].pivot.data();
  task.group = plan_.group.data() + batch.first;
  task.scale = scale_.data();
  task.zero = zero_.data();
  task.max_code = plan_.max_code;
  task.e = errors_.data();
  task.difference = difference_.data() + batch.first * kRows;
  task.codes = codes_.data() + batch.first * kRows;
  task.loss = loss_;
  task.distance = distance_;
  table_.quantize(task);
}

void PanelSolver::store(const RowPanel& rows, QuantizedRows& result) const {
  store_codes(codes_.data(), rows, plan_.position, result.codes.data());
  for (std::int64_t r = 0; r < rows.count; ++r) {
    const auto row = static_cast<std::size_t>(rows.first + r);
    for (std::int64_t g = 0; g < plan_.columns.groups; ++g) {
      const auto from = static_cast<std::size_t>(g * kRows + r);
      const auto to = row * static_cast<std::size_t>(plan_.columns.groups) + static_cast<std::size_t>(g);
      result.scales[to] = to_f16(scale_[from]);
      result.zeros[to] = static_cast<std::uint8_t>(zero_[from]);
    }
    // (W - Q) R is the row of errors e, and R Rᵀ the damped Hessian: both norms lose λ|·|².
    const bool solved = plan_.r != nullptr;
    const double live_norm = weight_norm_[r] - dead_norm_[r];
    result.solve_loss[row] = solved ? loss_[r] / 2 : 0;
    result.output_error[row] = solved ? std::max(0.0, loss_[r] - plan_.damping * distance_[r]) : 0;
    result.solve_error[row] = result.output_error[row];
    result.output_norm[row] = solved ? std::max(0.0, norm_[r] - plan_.damping * live_norm) : 0;
    result.weight_error[row] = distance_[r] + dead_norm_[r];
    result.weight_norm[row] = weight_norm_[r];
    if (!std::isfinite(loss_[r] + distance_[r] + norm_[r] + weight_norm_[r]))
      throw NumericalError(
          "row {} of a layer gave NaN or infinity while it was quantized: its weights hold such "
          "values, or are too large for single precision",
          row);
  }
}

}  // namespace gptq
