#include <algorithm>

#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device.cuh"

namespace gptq::cuda {
namespace {

/// One block a row, a thread an element at a time.
template <typename T>
__global__ void __launch_bounds__(256) copy_row(const T* x, std::int64_t x_stride, HeadPattern from, T* y,
                                                std::int64_t y_stride, HeadPattern to, std::int64_t heads) {
  const T* const source = x + static_cast<std::int64_t>(blockIdx.x) * x_stride + from.first;
  T* const target = y + static_cast<std::int64_t>(blockIdx.x) * y_stride + to.first;
  for (std::int64_t i = threadIdx.x; i < heads * from.dim; i += blockDim.x) {
    const std::int64_t head = i / from.dim;
    const std::int64_t feature = i - head * from.dim;
    target[head * to.pitch + feature] = source[head * from.pitch + feature];
  }
}

}  // namespace

void CudaKernels::copy_heads(const Matrix& x, HeadPattern from, const Matrix& y, HeadPattern to,
                             std::int64_t heads) {
  GPTQ_EXPECT(x.dtype == y.dtype && (x.dtype == DType::f32 || x.dtype == DType::bf16));
  GPTQ_EXPECT(x.rows == y.rows && from.dim == to.dim && from.dim > 0 && heads > 0);
  GPTQ_EXPECT(from.first + (heads - 1) * from.pitch + from.dim <= x.cols);
  GPTQ_EXPECT(to.first + (heads - 1) * to.pitch + to.dim <= y.cols);
  const std::int64_t warps = std::min<std::int64_t>(8, (heads * from.dim + 31) / 32);
  with_compute_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    launch(context_, &copy_row<T>, blocks_for(x.rows, 1), static_cast<unsigned>(32 * warps), 0,
           x.row<const T>(0), x.stride, from, y.row<T>(0), y.stride, to, heads);
  });
}

}  // namespace gptq::cuda
