#include "kernels/cuda/hessian.h"

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

/// Block (x, y) adds row first_row + y of a stripe of products, rows `stride` apart, columns from first_row
/// on. vector: four columns a thread; n must be a multiple of 4.
template <bool vector>
__global__ void add_stripe_kernel(const float* product, std::int64_t stride, int n, int first_row,
                                  const float* scale, long long* sum) {
  constexpr int width = vector ? 4 : 1;
  const int row = first_row + static_cast<int>(blockIdx.y);
  const int col =
      first_row + static_cast<int>(blockIdx.x * kThreads + threadIdx.x) * width;  // n < 2^31 - 4 * kThreads
  if (col < panel_start(row) || col >= n) return;
  const float row_scale = scale[row];
  const float* const from = product + blockIdx.y * stride + (col - first_row);
  long long* const to = sum + panel_row(n, row) + col;
  if constexpr (vector) {
    const float4 value = *reinterpret_cast<const float4*>(from);
    const float4 column = *reinterpret_cast<const float4*>(scale + col);
    longlong2* const pairs = reinterpret_cast<longlong2*>(to);
    longlong2 low = pairs[0], high = pairs[1];
    low.x += scaled_integer(value.x, row_scale, column.x);
    low.y += scaled_integer(value.y, row_scale, column.y);
    high.x += scaled_integer(value.z, row_scale, column.z);
    high.y += scaled_integer(value.w, row_scale, column.w);
    pairs[0] = low;
    pairs[1] = high;
  } else {
    *to += scaled_integer(*from, row_scale, scale[col]);
  }
}

void add_stripe(const CudaContext& context, const float* product, std::int64_t stride, std::int64_t n,
                std::int64_t first_row, std::int64_t rows, const float* scale, std::int64_t* sum) {
  const bool vector = n % 4 == 0 && reinterpret_cast<std::uintptr_t>(sum) % 16 == 0;
  const dim3 grid(blocks_for(n - first_row, vector ? 4 * kThreads : kThreads), static_cast<unsigned>(rows));
  launch(context, vector ? add_stripe_kernel<true> : add_stripe_kernel<false>, grid, dim3(kThreads), 0,
         product, stride, static_cast<int>(n), static_cast<int>(first_row), scale,
         reinterpret_cast<long long*>(sum));
}

/// Stripe after stripe in one stream. A second stream would let a stripe be added while the next is
/// multiplied, but the library's products leave no registers for other blocks on their multiprocessors.
void accumulate_stripes(CudaContext& context, const Matrix& x, std::span<const float> scale, PanelRange range,
                        std::int64_t* sum) {
  const std::int64_t n = x.cols, height = hessian_stripe_rows(n);
  auto* const scale_there = static_cast<float*>(context.scratch(kScratchExponents, scale.size_bytes()));
  context.upload(scale_there, scale.data(), scale.size_bytes());
  auto* const product = static_cast<float*>(context.scratch(
      kScratchHessianProduct, static_cast<std::size_t>(height * padded_columns(n)) * sizeof(float)));
  const std::int64_t end = std::min(range.end * TriangularPanels::kPanel, n);
  for (std::int64_t row = range.first * TriangularPanels::kPanel; row < end; row += height) {
    GemmShape shape;
    shape.m = std::min(height, end - row);
    shape.n = n - row;
    shape.k = x.rows;
    shape.transpose_a = true;
    shape.lda = shape.ldb = x.stride;
    shape.ldc = padded_columns(shape.n);
    shape.in = x.dtype;
    const void* const from_row = x.cols_from(row, shape.n).data;
    gemm(context, shape, from_row, from_row, product);
    add_stripe(context, product, shape.ldc, n, row, shape.m, scale_there, sum);
  }
}

/// Does the method take x as it lies? Products of the library want rows the same distance apart for every
/// chunk.
bool is_ready(HessianMethod method, const Matrix& x) {
  return method == HessianMethod::fused ? has_aligned_rows(x) : is_ready_for_products(x);
}

}  // namespace

HessianMethod preferred_hessian_method(DType dtype) {
  // Useful work (n² a row) against an H100's dense peak, chunks of 16,384 rows, estimated and not measured:
  // n = 4096: fused 0.94 (tiles on the diagonal) x 0.63 (the most that mma.sync reaches there) x 0.85; blas
  // at most 0.49 (whole stripes, whole rounds of 132 tiles) x 0.8, less what the second kernel takes. At n =
  // 14336 both come to about a half. Only a kernel of warpgroup products (wgmma) could pass 60 % at both.
  return dtype == DType::bf16 ? HessianMethod::fused : HessianMethod::blas;
}

void accumulate_hessian(CudaContext& context, HessianMethod method, const Matrix& x,
                        std::span<const int> exponents, PanelRange range, std::int64_t* sum) {
  GPTQ_EXPECT(static_cast<std::int64_t>(exponents.size()) == x.cols);
  GPTQ_EXPECT(x.dtype == DType::bf16 || (x.dtype == DType::f32 && method == HessianMethod::blas));
  const std::int64_t panels = TriangularPanels::panels(x.cols);
  GPTQ_EXPECT(range.first >= 0 && range.first % kRangeStep == 0);
  GPTQ_EXPECT(range.end == panels || (range.end < panels && range.end % kRangeStep == 0));
  if (x.rows == 0 || range.first >= range.end) return;

  // Where a product of two columns could leave f32's range the columns are scaled before it, else (cheaper)
  // after.
  Matrix source = x;
  std::vector<float> scale(exponents.size(), 1.0f);
  if (is_extreme(exponents)) {
    source = scaled_copy(context, kScratchHessianInput, x, exponents);
  } else {
    for (std::size_t c = 0; c < scale.size(); ++c) scale[c] = std::ldexp(1.0f, exponents[c]);
    if (!is_ready(method, x)) source = scaled_copy(context, kScratchHessianInput, x, {});
  }
  if (method == HessianMethod::fused) {
    // The padding is columns of zeros that no tile stores: the kernel may count whole pieces of 8.
    accumulate_fused(context, source, scale, range, sum);
  } else {
    accumulate_stripes(context, source, scale, range, sum);
  }
}

std::vector<PanelRange> CudaKernels::hessian_ranges(std::int64_t n) const {
  // Every range is a launch that has to fill the GPU by itself: a narrow triangle has no work for many.
  const std::int64_t wanted = n < 2048 ? 1 : n < 8192 ? 2 : 4;
  const std::int64_t panels = TriangularPanels::panels(n);
  std::vector<PanelRange> ranges;
  std::int64_t first = 0;
  // About equal shares, rounded up: that makes the last one the smallest, whose reduction nothing hides.
  for (std::int64_t i = 1; i <= wanted; ++i) {
    std::int64_t end = first;
    while (end < panels && TriangularPanels::offset(n, end) * wanted < TriangularPanels::size(n) * i)
      end += kRangeStep;
    end = i == wanted ? panels : std::min(end, panels);
    ranges.push_back({first, end});
    first = end;
  }
  return ranges;
}

void CudaKernels::accumulate_hessian(const Matrix& x, std::span<const int> exponents, PanelRange range,
                                     std::int64_t* sum) {
  cuda::accumulate_hessian(context_, preferred_hessian_method(x.dtype), x, exponents, range, sum);
}

}  // namespace gptq::cuda
