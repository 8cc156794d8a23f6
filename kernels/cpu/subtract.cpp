#include <algorithm>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa/forward_rows.h"
#include "kernels/cpu/parallel.h"

namespace gptq {
namespace {

constexpr std::int64_t kRowsPerTask = 64;

/// y = a − b − bias of one row in f32; minus_bias may be null.
void subtract_row(const float* a, const float* b, const float* minus_bias, std::int64_t cols, float* y) {
  const RowTable& table = row_table();
  table.scale_f32(b, -1, y, cols);  // exact
  table.add_f32(a, y, cols);
  if (minus_bias != nullptr) table.add_f32(minus_bias, y, cols);
}

}  // namespace

void CpuKernels::subtract(const Matrix& a, const Matrix& b, std::span<const float> bias, const Matrix& y) {
  GPTQ_EXPECT(a.dtype == b.dtype && a.rows == b.rows && a.rows == y.rows);
  GPTQ_EXPECT(a.cols == b.cols && a.cols == y.cols);
  GPTQ_EXPECT(a.dtype == DType::f32 || a.dtype == DType::bf16);
  GPTQ_EXPECT(y.dtype == a.dtype || y.dtype == DType::bf16);
  GPTQ_EXPECT(bias.empty() || static_cast<std::int64_t>(bias.size()) == a.cols);
  const RowTable& table = row_table();
  const std::int64_t cols = a.cols;
  std::vector<float> minus_bias(bias.size());
  std::transform(bias.begin(), bias.end(), minus_bias.begin(), std::negate<>());
  const float* const offset = bias.empty() ? nullptr : minus_bias.data();
  parallel_for(threads_, (a.rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task) {
    std::vector<float> room(static_cast<std::size_t>(3 * cols));
    float* const left = room.data();
    float* const right = left + cols;
    float* const difference = right + cols;
    const std::int64_t end = std::min(a.rows, (task + 1) * kRowsPerTask);
    for (std::int64_t row = task * kRowsPerTask; row < end; ++row) {
      if (y.dtype == DType::f32) {
        subtract_row(a.row<const float>(row), b.row<const float>(row), offset, cols, y.row<float>(row));
      } else if (a.dtype == DType::f32) {
        subtract_row(a.row<const float>(row), b.row<const float>(row), offset, cols, difference);
        table.to_bf16(difference, y.row<std::uint16_t>(row), cols);
      } else {
        table.to_f32(a.row<const std::uint16_t>(row), left, cols);
        table.to_f32(b.row<const std::uint16_t>(row), right, cols);
        subtract_row(left, right, offset, cols, difference);
        table.to_bf16(difference, y.row<std::uint16_t>(row), cols);
      }
    }
  });
}

}  // namespace gptq
