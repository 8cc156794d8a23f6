#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/forward_pack.cuh"

namespace gptq::cuda {
namespace {

/// One block a row.
template <typename T>
__global__ void __launch_bounds__(256)
    subtract_row(const T* a, std::int64_t a_stride, const T* b, std::int64_t b_stride, T* y,
                 std::int64_t y_stride, std::int64_t cols, bool aligned) {
  const std::int64_t row = blockIdx.x;
  for (std::int64_t c = threadIdx.x * kPack; c < cols; c += blockDim.x * kPack) {
    Pack left = load_pack(a + row * a_stride, c, cols, aligned);
    const Pack right = load_pack(b + row * b_stride, c, cols, aligned);
#pragma unroll
    for (int i = 0; i < kPack; ++i) left.v[i] -= right.v[i];
    store_pack(y + row * y_stride, c, cols, aligned, left);
  }
}

}  // namespace

void CudaKernels::subtract(const Matrix& a, const Matrix& b, const Matrix& y) {
  GPTQ_EXPECT(a.dtype == b.dtype && a.dtype == y.dtype && a.rows == b.rows && a.rows == y.rows);
  GPTQ_EXPECT(a.cols == b.cols && a.cols == y.cols);
  with_compute_type(a.dtype, [&](auto type) {
    using T = decltype(type);
    launch(context_, &subtract_row<T>, blocks_for(a.rows, 1), threads_for_row(a.cols), 0, a.row<const T>(0),
           a.stride, b.row<const T>(0), b.stride, y.row<T>(0), y.stride, a.cols,
           rows_aligned(a) && rows_aligned(b) && rows_aligned(y));
  });
}

}  // namespace gptq::cuda
