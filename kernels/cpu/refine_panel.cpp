#include "kernels/cpu/refine_panel.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "kernels/cpu/solve_plan.h"

namespace gptq {
namespace {

constexpr std::int64_t kRows = kSolveRows;
constexpr std::int64_t kBatch = kSolveBatch;

std::vector<float> panel(std::int64_t columns) {
  return std::vector<float>(static_cast<std::size_t>(columns * kRows));
}

}  // namespace

PanelRefiner::PanelRefiner(const RefinePlan& plan)
    : plan_(plan),
      table_(solve_table()),
      loops_(refine_table()),
      w_(panel(plan.n())),
      difference_(w_.size()),
      gradient_(w_.size()),
      codes_(w_.size()),
      scale_(panel(plan.schedule.columns.groups)),
      zero_(scale_.size()),
      values_(panel(kBatch)),
      steps_(panel(kBatch)),
      units_(panel(std::max(kBatch, plan.widest))),
      product_(panel(std::max(kBatch, plan.scattered || plan.widest > kBatch ? plan.n() : 0))),
      block_(kBatch * kBatch) {}

void PanelRefiner::refine(const Matrix& w, const RowPanel& rows, QuantizedRows& result) {
  load(w, rows, result);
  Figures figures = measure(plan_.refine.sweeps > 0);
  const RowSums start = figures.objective;
  bool changed = false;
  for (int s = 0; s < plan_.refine.sweeps; ++s) {
    // A row in which nothing changes stays as it is in all later sweeps: ending early changes no bits.
    if (!sweep(s + 1 == plan_.refine.sweeps)) break;
    changed = true;
  }
  if (changed) keep_better(measure(false), figures);
  store(rows, start, figures, result);
}

void PanelRefiner::load(const Matrix& w, const RowPanel& rows, const QuantizedRows& result) {
  const SolveSchedule& schedule = plan_.schedule;
  load_rows(w, rows, schedule.position, w_.data());
  dead_norm_ = {};
  for (std::int64_t c = 0; c < plan_.n(); ++c) {
    if (!schedule.columns.dead[static_cast<std::size_t>(c)]) continue;
    float* column = w_.data() + schedule.position[static_cast<std::size_t>(c)] * kRows;
    loops_.add_products(column, column, 1, dead_norm_.data());
    std::fill(column, column + kRows, 0.0f);
  }
  load_codes(result.codes.data(), rows, schedule.position, codes_.data());
  load_grids(result.scales.data(), result.zeros.data(), schedule.columns.groups, rows, schedule.max_code,
             scale_.data(), zero_.data());
  old_codes_ = codes_;
  old_scale_ = scale_;
}

/// From the codes and scales alone; leaves a fresh gradient if asked.
PanelRefiner::Figures PanelRefiner::measure(bool with_gradient) {
  const std::int64_t n = plan_.n();
  Figures figures{};
  for (std::int64_t p = 0; p < n; ++p) {
    const std::int64_t group = plan_.schedule.group[static_cast<std::size_t>(p)] * kRows;
    float* const d = difference_.data() + p * kRows;
    loops_.difference(w_.data() + p * kRows, codes_.data() + p * kRows, scale_.data() + group,
                      zero_.data() + group, d);
    const double curve = plan_.row_of_h(p)[p];
    RowSums square{};
    loops_.add_products(d, d, 1, square.data());
    for (std::size_t r = 0; r < kRows; ++r) {
      figures.distance[r] += square[r];
      figures.scale[r] += curve * square[r];
    }
  }
  // D H Dᵀ = Σ D_B (2 D_earlier H_earlier,B + D_B H_BB)ᵀ: the later half of the gradient plays no part.
  for (std::int64_t to = 0; to < n; to += kBatch) {
    const std::int64_t columns = std::min(kBatch, n - to);
    const float* const d = difference_.data() + to * kRows;
    float* const gradient = gradient_.data() + to * kRows;
    multiply_by_h(difference_.data(), 0, to, to, columns, gradient);
    if (to > 0) loops_.add_products(d, gradient, columns, figures.objective.data());
    multiply_by_h(difference_.data(), to, to + columns, to, columns, gradient);
    loops_.add_products(d, gradient, columns, figures.objective.data());
    if (with_gradient) multiply_by_h(difference_.data(), to + columns, n, to, columns, gradient);
  }
  return figures;
}

/// c (columns, 64) = or, unless first is 0, += x's columns [first, last) times their part of H's columns from
/// `to` on.
void PanelRefiner::multiply_by_h(const float* x, std::int64_t first, std::int64_t last, std::int64_t to,
                                 std::int64_t columns, float* c) const {
  for (std::int64_t from = first; from < last; from += kBatch)
    loops_.multiply_rows(x + from * kRows, plan_.row_of_h(to) + from, plan_.n(),
                         std::min(kBatch, last - from), columns, from > 0, c);
}

/// Rows whose objective fell take the figures `after`; the others their old codes and scales. A fall that
/// single precision could have made up does not count: sums of n terms, each about as large as `scale`.
void PanelRefiner::keep_better(const Figures& after, Figures& figures) {
  const double noise = std::ldexp(std::sqrt(static_cast<double>(plan_.n())), -23);
  const auto groups = static_cast<std::size_t>(plan_.schedule.columns.groups);
  for (std::size_t r = 0; r < kRows; ++r) {
    const double margin = noise * std::max(figures.scale[r], after.scale[r]);
    if (after.objective[r] < figures.objective[r] - margin) {
      figures.objective[r] = after.objective[r];
      figures.distance[r] = after.distance[r];
      continue;
    }
    for (std::size_t k = r; k < static_cast<std::size_t>(plan_.n() * kRows); k += kRows)
      codes_[k] = old_codes_[k];
    for (std::size_t k = r; k < groups * kRows; k += kRows) scale_[k] = old_scale_[k];
  }
}

void PanelRefiner::store(const RowPanel& rows, const RowSums& start, const Figures& figures,
                         QuantizedRows& result) const {
  const std::int64_t groups = plan_.schedule.columns.groups;
  store_codes(codes_.data(), rows, plan_.schedule.position, result.codes.data());
  for (std::int64_t r = 0; r < rows.count; ++r) {
    const auto row = static_cast<std::size_t>(rows.first + r), lane = static_cast<std::size_t>(r);
    for (std::int64_t g = 0; g < groups; ++g)
      result.scales[row * static_cast<std::size_t>(groups) + static_cast<std::size_t>(g)] =
          to_f16(scale_[static_cast<std::size_t>(g * kRows + r)]);
    result.solve_error[row] = std::max(0.0, start[lane]);
    result.output_error[row] = std::max(0.0, figures.objective[lane]);
    result.weight_error[row] = figures.distance[lane] + dead_norm_[lane];
    if (!std::isfinite(figures.objective[lane] + figures.distance[lane]))
      throw NumericalError(
          "row {} of a layer gave NaN or infinity while its codes were refined: its weights hold such "
          "values, "
          "or are too large for single precision",
          row);
  }
}

}  // namespace gptq
