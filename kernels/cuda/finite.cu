#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/forward_pack.cuh"

namespace gptq::cuda {
namespace {

/// Sets *bad to 1 if a row holds NaN or infinity: numbers whose exponent bits are all ones. One block a row.
template <typename T>
__global__ void __launch_bounds__(256)
    find_bad(const T* x, std::int64_t cols, std::int64_t stride, bool aligned, unsigned* bad) {
  constexpr int kInfinity = 0x7f800000;
  const T* const row = x + static_cast<std::int64_t>(blockIdx.x) * stride;
  bool found = false;
  for (std::int64_t c = threadIdx.x * kPack; c < cols; c += blockDim.x * kPack) {
    const Pack pack = load_pack(row, c, cols, aligned);
#pragma unroll
    for (int i = 0; i < kPack; ++i) found |= (__float_as_int(pack.v[i]) & kInfinity) == kInfinity;
  }
  if (found) atomicOr(bad, 1u);
}

}  // namespace

bool CudaKernels::all_finite(const Matrix& x) {
  GPTQ_EXPECT(x.dtype == DType::f32 || x.dtype == DType::bf16);
  auto* const bad = static_cast<unsigned*>(context_.scratch(kScratchFlags, sizeof(unsigned)));
  GPTQ_CUDA(cudaMemsetAsync(bad, 0, sizeof(unsigned), context_.stream()));
  with_compute_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    launch(context_, &find_bad<T>, blocks_for(x.rows, 1), threads_for_row(x.cols), 0, x.row<T>(0), x.cols,
           x.stride, rows_aligned(x), bad);
  });
  unsigned found = 0;
  context_.download(&found, bad, sizeof found);
  return found == 0;
}

}  // namespace gptq::cuda
