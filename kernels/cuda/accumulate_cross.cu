#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/hessian_input.h"
#include "kernels/cuda/hessian_memory.h"
#include "kernels/cuda/hessian_panels.cuh"

namespace gptq::cuda {
namespace {

constexpr int kThreads = 256;

/// Block (x, y) adds row y of a stripe of products, rows `stride` apart, to row y of sum, rows n apart.
/// vector: four columns a thread; n must be a multiple of 4.
template <bool vector>
__global__ void __launch_bounds__(kThreads)
    add_cross_kernel(const float* product, std::int64_t stride, int n, const float* row_scale,
                     const float* column_scale, long long* sum) {
  constexpr int width = vector ? 4 : 1;
  const int col = static_cast<int>(blockIdx.x * kThreads + threadIdx.x) * width;  // n < 2^31 - 4 * kThreads
  if (col >= n) return;
  const float scale = row_scale[blockIdx.y];
  const float* const from = product + blockIdx.y * stride + col;
  long long* const to = sum + static_cast<std::int64_t>(blockIdx.y) * n + col;
  if constexpr (vector) {
    const float4 value = *reinterpret_cast<const float4*>(from);
    const float4 column = *reinterpret_cast<const float4*>(column_scale + col);
    longlong2* const pairs = reinterpret_cast<longlong2*>(to);
    longlong2 low = pairs[0], high = pairs[1];
    low.x += scaled_integer(value.x, scale, column.x);
    low.y += scaled_integer(value.y, scale, column.y);
    high.x += scaled_integer(value.z, scale, column.z);
    high.y += scaled_integer(value.w, scale, column.w);
    pairs[0] = low;
    pairs[1] = high;
  } else {
    *to += scaled_integer(*from, scale, column_scale[col]);
  }
}

/// One of the two operands, ready for products: its columns scaled before them, or else after.
struct Columns {
  Matrix matrix;
  std::vector<float> scale;  ///< what is left to multiply

  Columns(CudaContext& context, int slot, const Matrix& x, std::span<const int> exponents)
      : matrix(x), scale(exponents.size(), 1.0f) {
    if (is_extreme(exponents)) {
      matrix = scaled_copy(context, slot, x, exponents);
      return;
    }
    for (std::size_t c = 0; c < scale.size(); ++c) scale[c] = std::ldexp(1.0f, exponents[c]);
    if (!is_ready_for_products(x)) matrix = scaled_copy(context, slot, x, {});
  }
};

}  // namespace

// Stripes of the height that the Hessian's have: what fills a GPU is the same for both. (The height decides
// the library's choice of an algorithm, and so bits: it is a function of n alone.)
void CudaKernels::accumulate_cross(const Matrix& d, std::span<const int> d_exponents, const Matrix& x,
                                   std::span<const int> exponents, std::int64_t* sum) {
  const std::int64_t m = d.cols, n = x.cols, height = hessian_stripe_rows(n);
  GPTQ_EXPECT(d.rows == x.rows && d.dtype == x.dtype);
  GPTQ_EXPECT(x.dtype == DType::f32 || x.dtype == DType::bf16);
  GPTQ_EXPECT(static_cast<std::int64_t>(exponents.size()) == n &&
              static_cast<std::int64_t>(d_exponents.size()) == m);
  if (x.rows == 0 || n == 0 || m == 0) return;

  const Columns left(context_, kScratchCrossInput, d, d_exponents);
  const Columns right(context_, kScratchHessianInput, x, exponents);
  const std::int64_t aligned = (n + 3) / 4 * 4;  // d's scales begin where a float4 may
  auto* const right_scale = static_cast<float*>(
      context_.scratch(kScratchExponents, static_cast<std::size_t>(aligned + m) * sizeof(float)));
  float* const left_scale = right_scale + aligned;
  context_.upload(right_scale, right.scale.data(), right.scale.size() * sizeof(float));
  context_.upload(left_scale, left.scale.data(), left.scale.size() * sizeof(float));
  auto* const product = static_cast<float*>(context_.scratch(
      kScratchHessianProduct, static_cast<std::size_t>(height * padded_columns(n)) * sizeof(float)));
  const bool vector = n % 4 == 0 && reinterpret_cast<std::uintptr_t>(sum) % 16 == 0;

  for (std::int64_t row = 0; row < m; row += height) {
    GemmShape shape;
    shape.m = std::min(height, m - row);
    shape.n = n;
    shape.k = x.rows;
    shape.transpose_a = true;
    shape.lda = left.matrix.stride;
    shape.ldb = right.matrix.stride;
    shape.ldc = padded_columns(n);
    shape.in = x.dtype;
    gemm(context_, shape, left.matrix.cols_from(row, shape.m).data, right.matrix.data, product);
    const dim3 grid(blocks_for(n, vector ? 4 * kThreads : kThreads), static_cast<unsigned>(shape.m));
    launch(context_, vector ? add_cross_kernel<true> : add_cross_kernel<false>, grid, dim3(kThreads), 0,
           product, shape.ldc, static_cast<int>(n), left_scale + row, right_scale,
           reinterpret_cast<long long*>(sum + row * n));
  }
}

}  // namespace gptq::cuda
