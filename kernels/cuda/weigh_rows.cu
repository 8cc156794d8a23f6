#include <algorithm>

#include "base/error.h"
#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/forward_pack.cuh"

namespace gptq::cuda {
namespace {

struct Hidden {
  const float* data;
  std::int64_t cols, stride;
  float eps;
  bool aligned;
};

/// One block a row. y may be x: each thread writes only what it alone has read.
template <typename T>
__global__ void __launch_bounds__(256) weigh_row(Hidden hidden, const T* x, std::int64_t x_stride, T* y,
                                                 std::int64_t y_stride, std::int64_t cols, bool aligned) {
  __shared__ float parts[kMostWarps];
  const std::int64_t row = blockIdx.x;
  const float* const state = hidden.data + row * hidden.stride;
  float sum = 0;
  for (std::int64_t c = threadIdx.x * kPack; c < hidden.cols; c += blockDim.x * kPack) {
    const Pack pack = load_pack(state, c, hidden.cols, hidden.aligned);
#pragma unroll
    for (int i = 0; i < kPack; ++i) sum = fmaf(pack.v[i], pack.v[i], sum);
  }
  sum = block_sum(sum, parts);
  const float factor = 1.0f / sqrtf(sum / static_cast<float>(hidden.cols) + hidden.eps);

  for (std::int64_t c = threadIdx.x * kPack; c < cols; c += blockDim.x * kPack) {
    Pack pack = load_pack(x + row * x_stride, c, cols, aligned);
#pragma unroll
    for (int i = 0; i < kPack; ++i) pack.v[i] *= factor;
    store_pack(y + row * y_stride, c, cols, aligned, pack);
  }
}

}  // namespace

void CudaKernels::weigh_rows(const Matrix& hidden, float eps, const Matrix& x, const Matrix& y) {
  GPTQ_EXPECT(hidden.dtype == DType::f32 && hidden.rows == x.rows && hidden.cols > 0);
  GPTQ_EXPECT(x.dtype == y.dtype && (x.dtype == DType::f32 || x.dtype == DType::bf16));
  GPTQ_EXPECT(x.rows == y.rows && x.cols == y.cols);
  const Hidden state{hidden.row<const float>(0), hidden.cols, hidden.stride, eps, rows_aligned(hidden)};
  with_compute_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    launch(context_, &weigh_row<T>, blocks_for(x.rows, 1), threads_for_row(std::max(x.cols, hidden.cols)), 0,
           state, x.row<const T>(0), x.stride, y.row<T>(0), y.stride, x.cols,
           rows_aligned(x) && rows_aligned(y));
  });
}

}  // namespace gptq::cuda
