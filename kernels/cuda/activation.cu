#include "base/error.h"
#include "kernels/cuda/activate.cuh"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/forward_pack.cuh"

namespace gptq::cuda {
namespace {

/// One block a row. y may be x.
template <Activation kActivation, typename T>
__global__ void __launch_bounds__(256) activate_rows(std::int64_t cols, const T* x, std::int64_t x_stride,
                                                     T* y, std::int64_t y_stride, bool aligned) {
  const std::int64_t row = blockIdx.x;
  for (std::int64_t c = threadIdx.x * kPack; c < cols; c += blockDim.x * kPack) {
    Pack pack = load_pack(x + row * x_stride, c, cols, aligned);
#pragma unroll
    for (int i = 0; i < kPack; ++i) pack.v[i] = activate<kActivation>(pack.v[i]);
    store_pack(y + row * y_stride, c, cols, aligned, pack);
  }
}

template <Activation kActivation>
void apply(const CudaContext& context, const Matrix& x, const Matrix& y) {
  with_compute_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    launch(context, &activate_rows<kActivation, T>, blocks_for(y.rows, 1), threads_for_row(y.cols), 0, y.cols,
           x.row<const T>(0), x.stride, y.row<T>(0), y.stride, rows_aligned(x) && rows_aligned(y));
  });
}

}  // namespace

void CudaKernels::activation(Activation kind, const Matrix& x, const Matrix& y) {
  GPTQ_EXPECT(x.dtype == y.dtype && (x.dtype == DType::f32 || x.dtype == DType::bf16));
  GPTQ_EXPECT(x.rows == y.rows && x.cols == y.cols);
  switch (kind) {
    case Activation::silu:
      return apply<Activation::silu>(context_, x, y);
    case Activation::gelu_tanh:
      return apply<Activation::gelu_tanh>(context_, x, y);
    case Activation::gelu:
      return apply<Activation::gelu>(context_, x, y);
    case Activation::relu:
      return apply<Activation::relu>(context_, x, y);
  }
  contract_violation("a known activation", __FILE__, __LINE__);
}

}  // namespace gptq::cuda
