#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/forward_pack.cuh"

namespace gptq::cuda {
namespace {

/// hidden = hidden · keep + y · factor, one block a row; y may be null, and then counts as 0.
__global__ void __launch_bounds__(256)
    combine_row(const float* y, std::int64_t y_stride, float factor, float keep, float* hidden,
                std::int64_t stride, std::int64_t cols, bool aligned) {
  const std::int64_t row = blockIdx.x;
  float* const out = hidden + row * stride;
  for (std::int64_t c = threadIdx.x * kPack; c < cols; c += blockDim.x * kPack) {
    Pack sum = load_pack(out, c, cols, aligned);
    if (y == nullptr) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) sum.v[i] *= keep;
    } else {
      const Pack added = load_pack(y + row * y_stride, c, cols, aligned);
#pragma unroll
      for (int i = 0; i < kPack; ++i) sum.v[i] = fmaf(added.v[i], factor, sum.v[i]);
    }
    store_pack(out, c, cols, aligned, sum);
  }
}

}  // namespace

void CudaKernels::add_scaled(const Matrix& y, float factor, const Matrix& hidden) {
  GPTQ_EXPECT(y.dtype == DType::f32 && hidden.dtype == DType::f32);
  GPTQ_EXPECT(y.rows == hidden.rows && y.cols == hidden.cols);
  launch(context_, &combine_row, blocks_for(y.rows, 1), threads_for_row(y.cols), 0, y.row<const float>(0),
         y.stride, factor, 1.0f, hidden.row<float>(0), hidden.stride, y.cols,
         rows_aligned(y) && rows_aligned(hidden));
}

void CudaKernels::scale(const Matrix& x, float factor) {
  GPTQ_EXPECT(x.dtype == DType::f32);
  launch(context_, &combine_row, blocks_for(x.rows, 1), threads_for_row(x.cols), 0, nullptr, std::int64_t{0},
         0.0f, factor, x.row<float>(0), x.stride, x.cols, rows_aligned(x));
}

}  // namespace gptq::cuda
