#include <cmath>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/cpu_linear.h"
#include "kernels/cpu/isa/forward_rows.h"
#include "kernels/cpu/isa/forward_softmax.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace gptq {
namespace {

constexpr std::int64_t kTileRows = 128;

struct RowState {
  float maximum = kLowestScore;
  double sum = 0;
  double target_logit = 0;
};

/// The scale is part of the cap's first product where there is a cap.
void apply_form(const LogitForm& form, float* logits, std::int64_t count) {
  if (form.is_plain()) return;
  if (form.cap > 0) return softmax_table().soft_cap(logits, form.scale, form.cap, count);
  row_table().scale_f32(logits, form.scale, logits, count);
}

void add_panel(const float* logits, const CpuLinear::Panel& panel, const RowTile& rows,
               std::span<const std::int32_t> targets, RowState* states) {
  const std::int64_t width = panel.weight.n();
  for (std::int64_t r = 0; r < rows.count; ++r, logits += width) {
    softmax_table().log_sum_step(logits, width, &states[r].maximum, &states[r].sum);
    const std::int64_t column = targets[static_cast<std::size_t>(rows.first + r)] - panel.first;
    if (column >= 0 && column < width) states[r].target_logit = static_cast<double>(logits[column]);
  }
}

void tile_losses(const Matrix& x, const CpuLinear& head, const RowTile& rows,
                 std::span<const std::int32_t> targets, std::span<double> losses, const LogitForm& form) {
  const std::int64_t height = product_rows(rows.count);
  const void* const input = dense_rows(x, rows);
  RowState states[kTileRows];
  for (const CpuLinear::Panel& panel : head.panels()) {
    float* const logits = scratch<float>(Scratch::tile_out, height * panel.weight.n());
    packed_product(height, input, panel.weight, panel.bias, logits, DType::f32, false);
    apply_form(form, logits, rows.count * panel.weight.n());
    add_panel(logits, panel, rows, targets, states);
  }
  for (std::int64_t r = 0; r < rows.count; ++r) {
    const auto row = static_cast<std::size_t>(rows.first + r);
    const RowState& state = states[r];
    losses[row] = targets[row] < 0
                      ? 0.0
                      : static_cast<double>(state.maximum) + std::log(state.sum) - state.target_logit;
  }
}

}  // namespace

void CpuKernels::cross_entropy(const Batch& batch, const Matrix& x, const LinearWeights& head,
                               std::span<const std::int32_t> targets, std::span<double> losses,
                               const LogitForm& form) {
  const CpuLinear& own = cpu_linear(head);
  const auto rows = static_cast<std::size_t>(x.rows);
  GPTQ_EXPECT(x.dtype == own.compute() && x.cols == own.in_features() && x.rows == batch.rows());
  GPTQ_EXPECT(targets.size() == rows && losses.size() == rows);
  for (const std::int32_t target : targets) GPTQ_EXPECT(target < own.out_features());
  const std::vector<RowTile> tiles = row_tiles(batch, kTileRows);
  parallel_for(threads_, static_cast<std::int64_t>(tiles.size()),
               [&](std::int64_t t) { tile_losses(x, own, tiles[t], targets, losses, form); });
}

}  // namespace gptq
