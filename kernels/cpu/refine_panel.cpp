#include "kernels/cpu/refine_panel.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/solve_plan.h"

namespace gptq {
namespace {

constexpr std::int64_t kRows = kSolveRows;
constexpr std::int64_t kBatch = kSolveBatch;

std::int64_t tiles_of(std::int64_t columns) {
  return (columns + 3) / 4;
}

/// Floats of so many columns, room for whole tiles of the multiplication included.
std::vector<float> panel(std::int64_t columns) {
  return std::vector<float>(static_cast<std::size_t>(tiles_of(columns) * 4 * kRows));
}

const RefineTable& refine_table() {
  static const RefineTable* const tables[] = {&isa_v2::refine_table, &isa_v3::refine_table,
                                              &isa_v4::refine_table};
  return *tables[isa_level()];
}

}  // namespace

PanelRefiner::PanelRefiner(const RefinePlan& plan)
    : plan_(plan),
      table_(solve_table()),
      loops_(refine_table()),
      w_(panel(plan.n())),
      difference_(w_.size()),
      gradient_(panel(plan.n() + 3)),  // a tile may begin anywhere
      codes_(w_.size()),
      scale_(panel(plan.schedule.columns.groups)),
      zero_(scale_.size()),
      values_(panel(kBatch)),
      steps_(panel(kBatch)),
      units_(panel(std::max(kBatch, plan.widest))),
      product_(panel(std::max(kBatch, plan.scattered || plan.widest > kBatch ? plan.n() : 0))),
      packed_(kBatch * kBatch),
      block_(kBatch * kBatch) {}

void PanelRefiner::refine(const Matrix& w, const RowPanel& rows, QuantizedRows& result) {
  load(w, rows, result);
  Figures figures = measure();
  bool changed = false;
  for (int s = 0; s < plan_.refine.sweeps; ++s) {
    // A row in which nothing changes stays as it is in all later sweeps: ending early changes no bits.
    if (!sweep(s + 1 == plan_.refine.sweeps)) break;
    changed = true;
  }
  if (changed) keep_better(measure(), figures);
  store(rows, figures, result);
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

/// From the codes and scales alone; leaves a fresh gradient.
PanelRefiner::Figures PanelRefiner::measure() {
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
  for (std::int64_t to = 0; to < n; to += kBatch) {
    const std::int64_t columns = std::min(kBatch, n - to);
    for (std::int64_t from = 0; from < n; from += kBatch) {
      const std::int64_t depth = std::min(kBatch, n - from);
      table_.pack(plan_.row_of_h(from) + to, n, depth, columns, packed_.data());
      table_.multiply(difference_.data() + from * kRows, packed_.data(), depth, tiles_of(columns), false,
                      from > 0, gradient_.data() + to * kRows);
    }
  }
  loops_.add_products(difference_.data(), gradient_.data(), n, figures.objective.data());
  return figures;
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

void PanelRefiner::store(const RowPanel& rows, const Figures& figures, QuantizedRows& result) const {
  const std::int64_t groups = plan_.schedule.columns.groups;
  store_codes(codes_.data(), rows, plan_.schedule.position, result.codes.data());
  for (std::int64_t r = 0; r < rows.count; ++r) {
    const auto row = static_cast<std::size_t>(rows.first + r), lane = static_cast<std::size_t>(r);
    for (std::int64_t g = 0; g < groups; ++g)
      result.scales[row * static_cast<std::size_t>(groups) + static_cast<std::size_t>(g)] =
          to_f16(scale_[static_cast<std::size_t>(g * kRows + r)]);
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
