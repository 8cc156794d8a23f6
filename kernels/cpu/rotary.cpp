#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa/forward_rows.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/row_tiles.h"

namespace gptq {
namespace {

void rotate_row(const Matrix& x, std::int64_t row, std::int64_t head_dim, const float* cos, const float* sin,
                std::int64_t half) {
  for (std::int64_t c = 0; c < x.cols; c += head_dim) {
    if (x.dtype == DType::f32) {
      row_table().rotate_f32(x.row<float>(row) + c, cos, sin, half);
    } else {
      row_table().rotate_bf16(x.row<std::uint16_t>(row) + c, cos, sin, half);
    }
  }
}

}  // namespace

void CpuKernels::rotary(const Batch& batch, const Matrix& x, std::int64_t head_dim,
                        const RotaryTable& table) {
  GPTQ_EXPECT(x.dtype == DType::f32 || x.dtype == DType::bf16);
  GPTQ_EXPECT(x.rows == batch.rows() && x.cols % head_dim == 0 && table.rotary_dim <= head_dim);
  const std::int64_t half = table.rotary_dim / 2;
  parallel_for(threads_, batch.samples(), [&](std::int64_t s) {
    const std::int64_t length = batch.offsets[s + 1] - batch.offsets[s];
    GPTQ_EXPECT(length <= table.positions);
    for (std::int64_t p = 0; p < length; ++p) {
      rotate_row(x, batch.offsets[s] + p, head_dim, table.cos + p * half, table.sin + p * half, half);
    }
  });
}

}  // namespace gptq
