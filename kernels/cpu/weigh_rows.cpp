#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa/forward_rows.h"
#include "kernels/cpu/parallel.h"

namespace gptq {
namespace {

constexpr std::int64_t kRowsPerTask = 64;

float weight_of(const float* hidden, std::int64_t width, float eps) {
  const float mean = row_table().sum_of_squares(hidden, width) / static_cast<float>(width);
  return 1.0f / std::sqrt(mean + eps);
}

}  // namespace

void CpuKernels::weigh_rows(const Matrix& hidden, float eps, const Matrix& x, const Matrix& y) {
  GPTQ_EXPECT(hidden.dtype == DType::f32 && hidden.cols > 0 && x.dtype == y.dtype);
  GPTQ_EXPECT(x.dtype == DType::f32 || x.dtype == DType::bf16);
  GPTQ_EXPECT(hidden.rows == x.rows && x.rows == y.rows && x.cols == y.cols);
  parallel_for(threads_, (x.rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task) {
    const std::int64_t end = std::min(x.rows, (task + 1) * kRowsPerTask);
    for (std::int64_t row = task * kRowsPerTask; row < end; ++row) {
      const float weight = weight_of(hidden.row<const float>(row), hidden.cols, eps);
      if (x.dtype == DType::f32)
        row_table().scale_f32(x.row<const float>(row), weight, y.row<float>(row), x.cols);
      else
        row_table().rescale_bf16(x.row<const std::uint16_t>(row), weight, y.row<std::uint16_t>(row), x.cols);
    }
  });
}

}  // namespace gptq
