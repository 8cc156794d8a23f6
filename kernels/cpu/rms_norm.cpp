#include <vector>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa/forward_rows.h"
#include "kernels/cpu/parallel.h"

namespace gptq {
namespace {

constexpr std::int64_t kRowsPerTask = 64;

std::vector<float> with_offset(std::span<const float> weight, float offset) {
  std::vector<float> result(weight.begin(), weight.end());
  for (float& w : result) w += offset;
  return result;
}

/// Normalises x's row in pieces of weight.size() features.
void norm_row(const Matrix& x, const Matrix& y, std::int64_t row, const std::vector<float>& weight,
              float eps) {
  const RowTable& table = row_table();
  const auto n = static_cast<std::int64_t>(weight.size());
  for (std::int64_t c = 0; c < x.cols; c += n) {
    if (y.dtype == DType::f32) {
      table.norm_f32(x.row<float>(row) + c, weight.data(), eps, n, y.row<float>(row) + c);
    } else if (x.dtype == DType::f32) {
      table.norm_f32_bf16(x.row<float>(row) + c, weight.data(), eps, n, y.row<std::uint16_t>(row) + c);
    } else {
      table.norm_bf16(x.row<std::uint16_t>(row) + c, weight.data(), eps, n, y.row<std::uint16_t>(row) + c);
    }
  }
}

void norm_rows(int threads, const Matrix& x, const Matrix& y, const std::vector<float>& weight, float eps) {
  GPTQ_EXPECT(x.dtype == DType::f32 || x.dtype == y.dtype);
  GPTQ_EXPECT(y.dtype == DType::f32 || y.dtype == DType::bf16);
  GPTQ_EXPECT(x.rows == y.rows && x.cols == y.cols && !weight.empty());
  parallel_for(threads, (x.rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task) {
    const std::int64_t end = std::min(x.rows, (task + 1) * kRowsPerTask);
    for (std::int64_t row = task * kRowsPerTask; row < end; ++row) norm_row(x, y, row, weight, eps);
  });
}

}  // namespace

void CpuKernels::rms_norm(const Matrix& x, std::span<const float> weight, float eps, float weight_offset,
                          const Matrix& y) {
  GPTQ_EXPECT(x.cols == static_cast<std::int64_t>(weight.size()));
  norm_rows(threads_, x, y, with_offset(weight, weight_offset), eps);
}

void CpuKernels::head_rms_norm(const Matrix& x, std::span<const float> weight, float eps,
                               float weight_offset) {
  GPTQ_EXPECT(!weight.empty() && x.cols % static_cast<std::int64_t>(weight.size()) == 0);
  norm_rows(threads_, x, x, with_offset(weight, weight_offset), eps);
}

}  // namespace gptq
