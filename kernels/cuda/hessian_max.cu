#include <algorithm>

#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device.cuh"

namespace gptq::cuda {
namespace {

constexpr int kLanes = 32;
constexpr int kRowsAtOnce = 8;  // warps of a block, each on rows of its own
constexpr int kRowsOfBlock = 128;

/// `width` neighbouring elements of a row as the bits of their magnitudes as floats. As unsigned integers
/// these order like the magnitudes, with NaN above infinity.
__device__ inline void magnitudes(const float* x, unsigned (&bits)[1]) {
  bits[0] = static_cast<unsigned>(__float_as_int(*x)) & 0x7fffffffu;
}
__device__ inline void magnitudes(const bfloat16* x, unsigned (&bits)[1]) {
  bits[0] = (static_cast<unsigned>(*reinterpret_cast<const unsigned short*>(x)) << 16) & 0x7fffffffu;
}
__device__ inline void magnitudes(const float* x, unsigned (&bits)[4]) {
  const uint4 word = *reinterpret_cast<const uint4*>(x);
  bits[0] = word.x & 0x7fffffffu;
  bits[1] = word.y & 0x7fffffffu;
  bits[2] = word.z & 0x7fffffffu;
  bits[3] = word.w & 0x7fffffffu;
}
__device__ inline void magnitudes(const bfloat16* x, unsigned (&bits)[8]) {
  const uint4 word = *reinterpret_cast<const uint4*>(x);
  const unsigned pairs[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    bits[2 * i] = (pairs[i] << 16) & 0x7fffffffu;
    bits[2 * i + 1] = pairs[i] & 0x7fff0000u;
  }
}

/// Block (x, y): columns [x·32·width, …) of rows [y·kRowsOfBlock, …); a lane holds `width` columns.
template <typename T, int width>
__global__ void column_max_kernel(const T* x, std::int64_t rows, std::int64_t cols, std::int64_t stride,
                                  unsigned* maximum) {
  __shared__ unsigned of_warp[kRowsAtOnce * kLanes * width];
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kLanes * width;
  const std::int64_t col = first + lane * width;
  const std::int64_t row_begin = static_cast<std::int64_t>(blockIdx.y) * kRowsOfBlock;
  const std::int64_t row_end = min(rows, row_begin + kRowsOfBlock);

  unsigned largest[width] = {};
  if (col < cols) {
#pragma unroll 4
    for (std::int64_t row = row_begin + warp; row < row_end; row += kRowsAtOnce) {
      unsigned bits[width];
      magnitudes(x + row * stride + col, bits);
#pragma unroll
      for (int i = 0; i < width; ++i) largest[i] = max(largest[i], bits[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < width; ++i) of_warp[(warp * width + i) * kLanes + lane] = largest[i];
  __syncthreads();

  for (int k = warp * kLanes + lane; k < kLanes * width; k += kRowsAtOnce * kLanes) {
    unsigned all = 0;
#pragma unroll
    for (int w = 0; w < kRowsAtOnce; ++w) all = max(all, of_warp[w * kLanes * width + k]);
    const std::int64_t column = first + (k % kLanes) * width + k / kLanes;
    if (column < cols) atomicMax(maximum + column, all);
  }
}

template <typename T, int width>
void start(const CudaContext& context, const Matrix& x, float* maximum) {
  const dim3 grid(blocks_for(x.cols, kLanes * width), blocks_for(x.rows, kRowsOfBlock));
  launch(context, column_max_kernel<T, width>, grid, dim3(kLanes, kRowsAtOnce), 0, x.row<const T>(0), x.rows,
         x.cols, x.stride, reinterpret_cast<unsigned*>(maximum));
}

bool allows_vectors(const Matrix& x) {
  const std::int64_t width = 16 / static_cast<std::int64_t>(size_of(x.dtype));
  return x.cols % width == 0 && x.stride % width == 0 && reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0;
}

}  // namespace

void CudaKernels::column_max(const Matrix& x, float* maximum) {
  GPTQ_EXPECT(x.dtype == DType::f32 || x.dtype == DType::bf16);
  // A grid's y ends at 65,535.
  constexpr std::int64_t rows_of_launch = std::int64_t{65535} * kRowsOfBlock;
  for (std::int64_t first = 0; first < x.rows; first += rows_of_launch) {
    const Matrix part = x.rows_from(first, std::min(rows_of_launch, x.rows - first));
    with_compute_type(x.dtype, [&](auto type) {
      using T = decltype(type);
      if (allows_vectors(part))
        start<T, 16 / sizeof(T)>(context_, part, maximum);
      else
        start<T, 1>(context_, part, maximum);
    });
  }
}

}  // namespace gptq::cuda
