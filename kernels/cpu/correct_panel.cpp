#include "kernels/cpu/correct_panel.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "kernels/cpu/refine_plan.h"
#include "kernels/cpu/solve_plan.h"

namespace gptq {
namespace {

constexpr std::int64_t kRows = kSolveRows;
constexpr std::int64_t kBatch = kSolveBatch;

/// Floats of so many columns, room for whole tiles of the multiplication included.
std::vector<float> panel(std::int64_t columns) {
  return std::vector<float>(static_cast<std::size_t>((columns + 3) / 4 * 4 * kRows));
}

std::int64_t tiles_of(std::int64_t columns) {
  return (columns + 3) / 4;
}

}  // namespace

CorrectPlan::CorrectPlan(const SolveColumns& columns_, const float* m_, const float* r_, double alpha_)
    : columns(columns_), m(m_), r(r_), alpha(alpha_) {
  const std::int64_t n = columns.n;
  GPTQ_EXPECT(m != nullptr && r != nullptr && static_cast<std::int64_t>(columns.order.size()) == n);
  position.resize(static_cast<std::size_t>(n));
  for (std::int64_t p = 0; p < n; ++p)
    position[static_cast<std::size_t>(columns.order[static_cast<std::size_t>(p)])] =
        static_cast<std::int32_t>(p);

  const SolveTable& table = solve_table();
  std::vector<double> work(kBatch * kBatch);
  std::vector<float> transposed(kBatch * kBatch), upright(kBatch * kBatch);
  for (std::int64_t first = 0; first < n; first += kBatch) {
    const std::int64_t count = std::min(kBatch, n - first);
    table.invert(r + first * n + first, n, count, work.data(), transposed.data());
    for (std::int64_t i = 0; i < count; ++i)
      for (std::int64_t j = 0; j < count; ++j)
        upright[static_cast<std::size_t>(i * kBatch + j)] =
            transposed[static_cast<std::size_t>(j * kBatch + i)];
    Batch batch{first, count, {}, {}};
    for (auto* packed : {&batch.packed_inverse, &batch.packed_inverse_transposed})
      packed->resize(static_cast<std::size_t>(tiles_of(count) * 4 * count));
    table.pack(upright.data(), kBatch, count, count, batch.packed_inverse.data());
    table.pack(transposed.data(), kBatch, count, count, batch.packed_inverse_transposed.data());
    batches.push_back(std::move(batch));
  }
}

PanelCorrector::PanelCorrector(const CorrectPlan& plan)
    : plan_(plan),
      table_(solve_table()),
      loops_(refine_table()),
      w_(panel(plan.columns.n)),
      change_(panel(plan.columns.n)),
      product_(panel(kBatch)),
      rest_(panel(kBatch)),
      packed_(kBatch * kBatch) {}

void PanelCorrector::correct(const RowsToSolve& part, const RowPanel& rows, float* corrected) {
  load_rows(part.weight, rows, plan_.position, w_.data());
  if (plan_.alpha != 0) {
    multiply_by_m();
    if (part.wanted != nullptr) {
      const std::int64_t n = plan_.columns.n;
      subtract_from({const_cast<float*>(part.wanted), DType::f32, part.weight.rows, n, n}, rows);
    }
    solve_transposed();
    solve_upright();
  }
  store(rows, corrected);
}

void PanelCorrector::multiply_by_m() {
  const std::int64_t n = plan_.columns.n;
  for (const CorrectPlan::Batch& to : plan_.batches) {
    for (const CorrectPlan::Batch& from : plan_.batches) {
      table_.pack(plan_.m + from.first * n + to.first, n, from.count, to.count, packed_.data());
      table_.multiply(w_.data() + from.first * kRows, packed_.data(), from.count, tiles_of(to.count), false,
                      from.first > 0, change_.data() + to.first * kRows);
    }
  }
}

void PanelCorrector::subtract_from(const Matrix& wanted, const RowPanel& rows) {
  wanted_.resize(change_.size());
  load_rows(wanted, rows, plan_.position, wanted_.data());
  const auto used = static_cast<std::size_t>(plan_.columns.n * kRows);
  for (std::size_t i = 0; i < used; ++i) change_[i] = wanted_[i] - change_[i];
}

/// Z Rᵀ = Y from the last batch to the first: Z_B = (Y_B − Z_later · (R_{B,later})ᵀ) · R_BB^-T.
void PanelCorrector::solve_transposed() {
  const std::int64_t n = plan_.columns.n;
  for (std::size_t b = plan_.batches.size(); b-- > 0;) {
    const CorrectPlan::Batch& batch = plan_.batches[b];
    float* const values = change_.data() + batch.first * kRows;
    std::copy_n(values, batch.count * kRows, rest_.data());
    for (std::size_t l = b + 1; l < plan_.batches.size(); ++l) {
      const CorrectPlan::Batch& later = plan_.batches[l];
      loops_.multiply_rows(change_.data() + later.first * kRows, plan_.r + batch.first * n + later.first, n,
                           later.count, batch.count, l > b + 1, product_.data());
    }
    if (b + 1 < plan_.batches.size())
      for (std::int64_t i = 0; i < batch.count * kRows; ++i)
        rest_[static_cast<std::size_t>(i)] -= product_[static_cast<std::size_t>(i)];
    table_.multiply(rest_.data(), batch.packed_inverse_transposed.data(), batch.count, tiles_of(batch.count),
                    false, false, values);
  }
}

/// X R = Z from the first batch to the last: X_B = (Z_B − X_earlier · R_{earlier,B}) · R_BB^-1.
void PanelCorrector::solve_upright() {
  const std::int64_t n = plan_.columns.n;
  for (const CorrectPlan::Batch& batch : plan_.batches) {
    float* const values = change_.data() + batch.first * kRows;
    std::copy_n(values, batch.count * kRows, rest_.data());
    for (const CorrectPlan::Batch& earlier : plan_.batches) {
      if (earlier.first == batch.first) break;
      table_.pack(plan_.r + earlier.first * n + batch.first, n, earlier.count, batch.count, packed_.data());
      table_.multiply(change_.data() + earlier.first * kRows, packed_.data(), earlier.count,
                      tiles_of(batch.count), false, earlier.first > 0, product_.data());
    }
    if (batch.first > 0)
      for (std::int64_t i = 0; i < batch.count * kRows; ++i)
        rest_[static_cast<std::size_t>(i)] -= product_[static_cast<std::size_t>(i)];
    table_.multiply(rest_.data(), batch.packed_inverse.data(), batch.count, tiles_of(batch.count), true,
                    false, values);
  }
}

void PanelCorrector::store(const RowPanel& rows, float* corrected) const {
  constexpr std::int64_t line = 16;
  const std::int64_t n = plan_.columns.n;
  for (std::int64_t begin = 0; begin < n; begin += line) {
    for (std::int64_t r = 0; r < rows.count; ++r) {
      float* const row = corrected + (rows.first + r) * n;
      for (std::int64_t c = begin; c < std::min(begin + line, n); ++c) {
        const auto from = static_cast<std::size_t>(plan_.position[static_cast<std::size_t>(c)] * kRows + r);
        // Without a correction even the sign of a zero stays.
        row[c] = plan_.alpha == 0 ? w_[from] : static_cast<float>(w_[from] + plan_.alpha * change_[from]);
        if (!std::isfinite(row[c]))
          throw NumericalError(
              "row {} of a layer gave NaN or infinity while it was corrected for the errors of earlier "
              "layers; "
              "its weights hold such values, or the Hessian needs more damping (quantization.damp_percent)",
              rows.first + r);
      }
    }
  }
}

}  // namespace gptq
