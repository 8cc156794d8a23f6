#include <algorithm>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa/forward_rows.h"
#include "kernels/cpu/parallel.h"

namespace gptq {
namespace {

constexpr std::int64_t kRowsPerTask = 64;

/// weight and bias of column c and those behind it; the same for all runs where step is 0.
struct Affine {
  const float* weight;
  const float* bias;
  std::int64_t step;  ///< from a run to the next
};

void center_row(const Matrix& x, const Matrix& y, std::int64_t row, std::int64_t features, float eps,
                const Affine& affine) {
  using u16 = std::uint16_t;
  const RowTable& table = row_table();
  for (std::int64_t c = 0, at = 0; c < x.cols; c += features, at += affine.step) {
    const float* const weight = affine.weight + at;
    const float* const bias = affine.bias + at;
    if (y.dtype == DType::f32) {
      table.center_f32(x.row<float>(row) + c, weight, bias, eps, features, y.row<float>(row) + c);
    } else if (x.dtype == DType::f32) {
      table.center_f32_bf16(x.row<float>(row) + c, weight, bias, eps, features, y.row<u16>(row) + c);
    } else {
      table.center_bf16(x.row<u16>(row) + c, weight, bias, eps, features, y.row<u16>(row) + c);
    }
  }
}

}  // namespace

void CpuKernels::layer_norm(const Matrix& x, std::int64_t features, std::span<const float> weight,
                            std::span<const float> bias, float eps, const Matrix& y) {
  const auto size = static_cast<std::int64_t>(weight.size());
  GPTQ_EXPECT(x.dtype == DType::f32 || x.dtype == y.dtype);
  GPTQ_EXPECT(y.dtype == DType::f32 || y.dtype == DType::bf16);
  GPTQ_EXPECT(x.rows == y.rows && x.cols == y.cols && features > 0 && x.cols % features == 0);
  GPTQ_EXPECT((size == features || size == x.cols) && (bias.empty() || bias.size() == weight.size()));
  const std::vector<float> zeros(bias.empty() ? weight.size() : 0);
  const Affine affine{weight.data(), bias.empty() ? zeros.data() : bias.data(),
                      size == features ? 0 : features};
  parallel_for(threads_, (x.rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task) {
    const std::int64_t end = std::min(x.rows, (task + 1) * kRowsPerTask);
    for (std::int64_t row = task * kRowsPerTask; row < end; ++row)
      center_row(x, y, row, features, eps, affine);
  });
}

}  // namespace gptq
