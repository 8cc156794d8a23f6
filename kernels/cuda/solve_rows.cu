#include <cmath>
#include <span>
#include <vector>

#include "base/error.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/solve_memory.h"
#include "kernels/cuda/solve_slice.h"
#include "kernels/cuda/solve_tables.h"
#include "kernels/cuda/solve_tasks.h"
#include "kernels/solve_schedule.h"

namespace gptq::cuda {
namespace {

class SliceSolver {
 public:
  /// given: the parts bring their scales and zeros.
  SliceSolver(CudaContext& context, const SolveSchedule& schedule, const float* r, double damping, bool given,
              std::int64_t rows);

  std::int64_t rows() const { return rows_; }
  /// Rows [first, first + count) of the parts laid one behind the other, count <= rows().
  void solve(std::span<const RowsToSolve> parts, std::int64_t first, std::int64_t count,
             std::vector<QuantizedRows>& results);

 private:
  void allocate_slice();
  void load(std::span<const PartRows> overlaps);
  void load_scales(std::span<const PartRows> overlaps);
  void fix_scales();
  void search_ahead(std::size_t index, std::size_t segment);
  void solve_batch(std::size_t index);
  SolveBatchTask task_of(std::size_t index);
  void store(std::span<const PartRows> overlaps, std::int64_t count, std::vector<QuantizedRows>& results);
  void store_statistics(std::span<const PartRows> overlaps, std::vector<QuantizedRows>& results);

  float* w_at(std::int64_t position) { return w_.as<float>() + position * rows_; }
  double* statistic(int number) { return statistics_.as<double>() + number * rows_; }
  std::int64_t padded_columns() const { return round_up(n_, 16); }

  enum Statistic { kLoss, kDistance, kNorm, kWeightNorm, kDeadNorm, kStatistics };

  CudaContext& context_;
  const SolveSchedule& schedule_;
  const float* r_;
  double damping_;
  bool given_;
  std::int64_t n_, groups_, rows_;
  std::int64_t ahead_ = 0;  ///< columns of the widest group that is solved ahead
  SolveTables tables_;
  DeviceBuffer w_;           ///< (padded_columns, rows): weights in visiting order
  DeviceBuffer difference_;  ///< (padded_columns, rows): w - q; before and after, rows of the file and codes
  DeviceBuffer partial_, packed_, codes_, scale_, zero_, ahead_values_, norm_parts_, statistics_;
};

SliceSolver::SliceSolver(CudaContext& context, const SolveSchedule& schedule, const float* r, double damping,
                         bool given, std::int64_t rows)
    : context_(context),
      schedule_(schedule),
      r_(r),
      damping_(damping),
      given_(given),
      n_(schedule.columns.n),
      groups_(schedule.columns.groups),
      tables_(context, schedule, r) {
  if (r_ != nullptr && !given_ && schedule.options.refit_every_group) ahead_ = schedule.widest_search;
  rows_ = solve_slice_rows(rows, n_, groups_, ahead_);
  allocate_slice();
}

void SliceSolver::allocate_slice() {
  const auto floats = [&](std::int64_t count) {
    return context_.allocate(static_cast<std::size_t>(std::max<std::int64_t>(count, 1)) * sizeof(float));
  };
  w_ = floats(padded_columns() * rows_);
  difference_ = floats(padded_columns() * rows_);
  codes_ = context_.allocate(static_cast<std::size_t>(n_ * rows_));
  scale_ = floats(groups_ * rows_);
  zero_ = floats(groups_ * rows_);
  statistics_ = context_.allocate(static_cast<std::size_t>(kStatistics * rows_) * sizeof(double));
  if (r_ == nullptr) return;
  partial_ = floats(solve_chunks(schedule_.batches.back().first) * rows_ * kSolveTile);
  packed_ = floats(padded_columns() * kSolveTile);
  ahead_values_ = floats(ahead_ * rows_);
  norm_parts_ = floats(round_up(n_, kSolveTile) / kSolveTile * rows_);
}

void SliceSolver::solve(std::span<const RowsToSolve> parts, std::int64_t first, std::int64_t count,
                        std::vector<QuantizedRows>& results) {
  const std::vector<PartRows> overlaps = rows_in_slice(parts, first, count);
  load(overlaps);
  if (given_)
    load_scales(overlaps);
  else if (!schedule_.options.refit_every_group)
    fix_scales();
  for (std::size_t index = 0; index < schedule_.batches.size(); ++index) solve_batch(index);
  if (r_ != nullptr) {
    project_norms(context_, w_.as<float>(), rows_, r_, n_, norm_parts_.as<float>());
    add_norms(context_, norm_parts_.as<float>(), round_up(n_, kSolveTile) / kSolveTile, rows_,
              statistic(kNorm));
  }
  store(overlaps, count, results);
}

void SliceSolver::load(std::span<const PartRows> overlaps) {
  const cudaStream_t stream = context_.stream();
  GPTQ_CUDA(cudaMemsetAsync(w_.data(), 0, w_.size(), stream));
  GPTQ_CUDA(cudaMemsetAsync(statistics_.data(), 0, statistics_.size(), stream));
  SliceTarget target{n_, rows_, tables_.position.as<int>(), tables_.dead.as<std::uint8_t>(), w_.as<float>()};
  target.staging = difference_.data();  // not needed yet
  target.staging_bytes = difference_.size();
  target.norm = statistic(kWeightNorm);
  target.dead_norm = statistic(kDeadNorm);
  load_slice(context_, target, overlaps);
  // Products over columns in steps of 16 may meet ones that are not solved yet, times zero.
  GPTQ_CUDA(cudaMemsetAsync(difference_.data(), 0, difference_.size(), stream));
}

/// Scales and zeros that the caller gave. Rows that do not exist have some too, lest they give NaN.
void SliceSolver::load_scales(std::span<const PartRows> overlaps) {
  const ScaleTarget target{groups_, rows_, scale_.as<float>(), zero_.as<float>()};
  for (const PartRows& rows : overlaps) {
    const std::int64_t end = &rows == &overlaps.back() ? rows_ : rows.at + rows.count;
    load_given_scales(context_, target, rows.part->scales + rows.first * groups_,
                      rows.part->zeros + rows.first * groups_, rows.at, rows.count, end);
  }
}

/// Scales of all groups from the original weights.
void SliceSolver::fix_scales() {
  SolveSearchTask task;
  task.rows = rows_;
  task.values = w_.as<float>();
  task.positions = tables_.group_columns.as<int>();
  task.starts = tables_.group_starts.as<int>();
  task.weight = tables_.weight.as<float>();
  task.groups = static_cast<int>(groups_);
  task.grid = tables_.grid;
  task.scale = scale_.as<float>();
  task.zero = zero_.as<float>();
  search_groups(context_, task);
}

SolveBatchTask SliceSolver::task_of(std::size_t index) {
  const SolveBatch& batch = schedule_.batches[index];
  SolveBatchTask task;
  task.rows = rows_;
  task.count = static_cast<int>(batch.count);
  task.w = w_at(batch.first);
  task.difference = difference_.as<float>() + batch.first * rows_;
  task.parts = tables_.parts.as<SolvePart>() + tables_.first[index];
  task.part_count = static_cast<int>(batch.segments.size());
  task.fixed = schedule_.options.refit_every_group ? 0 : 1;
  task.given = given_ ? 1 : 0;
  task.weight = tables_.weight.as<float>() + batch.first;
  task.group = tables_.group.as<int>() + batch.first;
  task.grid = tables_.grid;
  task.scale = scale_.as<float>();
  task.zero = zero_.as<float>();
  task.codes = codes_.as<std::uint8_t>() + batch.first * rows_;
  task.loss = statistic(kLoss);
  task.distance = statistic(kDistance);
  if (r_ == nullptr) return task;

  task.inverse = tables_.inverse.as<float>() + index * kSolveTile * kSolveTile;
  task.pivot = tables_.pivot.as<float>() + index * kSolveTile;
  if (batch.first == 0) return task;
  SolveProduct product;
  product.rows = rows_;
  product.x = difference_.as<float>();
  product.b = r_ + batch.first;
  product.stride = n_;
  product.depth = batch.first;
  product.count = task.count;
  product.packed = packed_.as<float>();
  product.partial = partial_.as<float>();
  multiply_columns(context_, product);
  task.chunks = solve_chunks(batch.first);
  task.partial = partial_.as<float>();
  return task;
}

/// Finds the scale of a group wider than its batch. Its up-to-date values are those of a solve that makes no
/// error inside the group (Q = V); the differences it leaves behind are overwritten when the batches are
/// solved.
void SliceSolver::search_ahead(std::size_t index, std::size_t number) {
  const SolveSegment& segment = schedule_.batches[index].segments[number];
  const std::int64_t last = segment.first + segment.search_count;
  SolveSearchTask search;
  search.values = w_at(segment.first);
  if (r_ != nullptr && segment.first > 0) {
    for (std::size_t k = index; k < schedule_.batches.size() && schedule_.batches[k].first < last; ++k) {
      const SolveBatch& batch = schedule_.batches[k];
      SolveBatchTask task = task_of(k);
      task.ahead = ahead_values_.as<float>() + (batch.first - segment.first) * rows_;
      task.ahead_count = static_cast<int>(std::min(batch.count, last - batch.first));
      solve_columns(context_, task);
    }
    search.values = ahead_values_.as<float>();
  }
  search.rows = rows_;
  search.starts = tables_.wide_starts.as<int>() + 2 * (tables_.first[index] + number);
  search.weight = tables_.weight.as<float>() + segment.first;
  search.first_group = schedule_.group[static_cast<std::size_t>(segment.first)];
  search.groups = 1;
  search.grid = tables_.grid;
  search.scale = scale_.as<float>();
  search.zero = zero_.as<float>();
  search_groups(context_, search);
}

void SliceSolver::solve_batch(std::size_t index) {
  const SolveBatch& batch = schedule_.batches[index];
  for (std::size_t k = 0; k < batch.segments.size(); ++k)
    if (!given_ && batch.segments[k].search_count > batch.segments[k].count) search_ahead(index, k);
  solve_columns(context_, task_of(index));
}

void SliceSolver::store(std::span<const PartRows> overlaps, std::int64_t count,
                        std::vector<QuantizedRows>& results) {
  std::uint8_t* const codes = difference_.as<std::uint8_t>();  // no longer needed
  store_codes(context_, codes_.as<std::uint8_t>(), n_, rows_, count, tables_.position.as<int>(), codes);
  const auto entries = static_cast<std::size_t>(count * groups_);
  const DeviceBuffer scales = context_.allocate(entries * sizeof(f16));
  const DeviceBuffer zeros = context_.allocate(entries);
  store_scales(context_, scale_.as<float>(), zero_.as<float>(), groups_, rows_, count,
               scales.as<std::uint16_t>(), zeros.as<std::uint8_t>());
  for (const PartRows& rows : overlaps) {
    QuantizedRows& result = results[rows.number];
    const auto download = [&](auto& to, const auto* from, std::int64_t width) {
      context_.download(to.data() + rows.first * width, from + rows.at * width,
                        static_cast<std::size_t>(rows.count * width) * sizeof(*from));
    };
    download(result.codes, codes, n_);
    download(result.scales, scales.as<f16>(), groups_);
    download(result.zeros, zeros.as<std::uint8_t>(), groups_);
  }
  store_statistics(overlaps, results);
}

void SliceSolver::store_statistics(std::span<const PartRows> overlaps, std::vector<QuantizedRows>& results) {
  std::vector<double> all(static_cast<std::size_t>(kStatistics * rows_));
  context_.download(all.data(), statistics_.data(), all.size() * sizeof(double));
  const bool solved = r_ != nullptr;
  for (const PartRows& rows : overlaps) {
    QuantizedRows& result = results[rows.number];
    for (std::int64_t r = 0; r < rows.count; ++r) {
      const auto row = static_cast<std::size_t>(rows.first + r);
      const auto at = [&](Statistic number) {
        return all[static_cast<std::size_t>(number * rows_ + rows.at + r)];
      };
      // (W - Q) R is the row of errors e, and R Rᵀ the damped Hessian: both norms lose λ|·|².
      const double live_norm = at(kWeightNorm) - at(kDeadNorm);
      result.solve_loss[row] = solved ? at(kLoss) / 2 : 0;
      result.output_error[row] = solved ? std::max(0.0, at(kLoss) - damping_ * at(kDistance)) : 0;
      result.solve_error[row] = result.output_error[row];
      result.output_norm[row] = solved ? std::max(0.0, at(kNorm) - damping_ * live_norm) : 0;
      result.weight_error[row] = at(kDistance) + at(kDeadNorm);
      result.weight_norm[row] = at(kWeightNorm);
      if (!std::isfinite(at(kLoss) + at(kDistance) + at(kNorm) + at(kWeightNorm)))
        throw NumericalError(
            fmt::runtime(
                "row {} of a layer gave NaN or infinity while it was quantized: its weights hold such "
                "values, or are too large for single precision"),
            row);
    }
  }
}

}  // namespace

std::vector<QuantizedRows> CudaKernels::solve_rows(std::span<const RowsToSolve> parts,
                                                   const SolveColumns& columns, const float* r,
                                                   double damping, const SolveOptions& options) {
  std::vector<QuantizedRows> results;
  for (const RowsToSolve& part : parts) {
    GPTQ_EXPECT(part.weight.cols == columns.n && (part.scales == nullptr) == (part.zeros == nullptr));
    results.push_back(make_quantized_rows(part.weight.rows, columns));
  }
  const SolveSchedule schedule(columns, options);
  // A slice's parts all seek their scales, or all have them.
  for (const bool given : {false, true}) {
    std::vector<RowsToSolve> alike(parts.begin(), parts.end());
    std::int64_t rows = 0;
    for (RowsToSolve& part : alike) {
      if ((part.scales != nullptr) != given) part.weight.rows = 0;
      rows += part.weight.rows;
    }
    if (rows == 0) continue;
    SliceSolver solver(context_, schedule, r, damping, given, rows);
    for (std::int64_t first = 0; first < rows; first += solver.rows())
      solver.solve(alike, first, std::min(solver.rows(), rows - first), results);
  }
  return results;
}

}  // namespace gptq::cuda
