#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/forward_pack.cuh"

namespace gptq::cuda {
namespace {

/// One block a row.
template <typename From, typename To>
__global__ void __launch_bounds__(256) convert_row(const From* x, std::int64_t x_stride, To* y,
                                                   std::int64_t y_stride, std::int64_t cols, bool aligned) {
  const std::int64_t row = blockIdx.x;
  for (std::int64_t c = threadIdx.x * kPack; c < cols; c += blockDim.x * kPack)
    store_pack(y + row * y_stride, c, cols, aligned, load_pack(x + row * x_stride, c, cols, aligned));
}

}  // namespace

void CudaKernels::convert(const Matrix& x, const Matrix& y) {
  for (const Matrix* m : {&x, &y}) GPTQ_EXPECT(m->dtype == DType::f32 || m->dtype == DType::bf16);
  GPTQ_EXPECT(x.rows == y.rows && x.cols == y.cols);
  with_compute_type(x.dtype, [&](auto from) {
    with_compute_type(y.dtype, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      launch(context_, &convert_row<From, To>, blocks_for(x.rows, 1), threads_for_row(x.cols), 0,
             x.row<const From>(0), x.stride, y.row<To>(0), y.stride, x.cols,
             rows_aligned(x) && rows_aligned(y));
    });
  });
}

}  // namespace gptq::cuda
