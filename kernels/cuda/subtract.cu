#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/forward_pack.cuh"

namespace gptq::cuda {
namespace {

/// One block a row. bias: (cols) or null.
template <typename From, typename To>
__global__ void __launch_bounds__(256)
    subtract_row(const From* a, std::int64_t a_stride, const From* b, std::int64_t b_stride,
                 const float* bias, To* y, std::int64_t y_stride, std::int64_t cols, bool aligned) {
  const std::int64_t row = blockIdx.x;
  for (std::int64_t c = threadIdx.x * kPack; c < cols; c += blockDim.x * kPack) {
    Pack left = load_pack(a + row * a_stride, c, cols, aligned);
    const Pack right = load_pack(b + row * b_stride, c, cols, aligned);
#pragma unroll
    for (int i = 0; i < kPack; ++i) left.v[i] -= right.v[i];
    if (bias != nullptr) {
      const Pack offset = load_pack(bias, c, cols, aligned);
#pragma unroll
      for (int i = 0; i < kPack; ++i) left.v[i] -= offset.v[i];
    }
    store_pack(y + row * y_stride, c, cols, aligned, left);
  }
}

}  // namespace

void CudaKernels::subtract(const Matrix& a, const Matrix& b, std::span<const float> bias, const Matrix& y) {
  GPTQ_EXPECT(a.dtype == b.dtype && a.rows == b.rows && a.rows == y.rows);
  GPTQ_EXPECT(a.cols == b.cols && a.cols == y.cols);
  GPTQ_EXPECT(y.dtype == a.dtype || y.dtype == DType::bf16);
  GPTQ_EXPECT(bias.empty() || static_cast<std::int64_t>(bias.size()) == a.cols);
  const float* offset = nullptr;
  if (!bias.empty()) {
    auto* const there = static_cast<float*>(context_.scratch(kScratchBias, bias.size_bytes()));
    context_.upload(there, bias.data(), bias.size_bytes());
    offset = there;
  }
  with_compute_type(a.dtype, [&](auto from) {
    with_compute_type(y.dtype, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      launch(context_, &subtract_row<From, To>, blocks_for(a.rows, 1), threads_for_row(a.cols), 0,
             a.row<const From>(0), a.stride, b.row<const From>(0), b.stride, offset, y.row<To>(0), y.stride,
             a.cols, rows_aligned(a) && rows_aligned(b) && rows_aligned(y));
    });
  });
}

}  // namespace gptq::cuda
