#include <cuda_bf16.h>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/solve_tasks.h"

/// |W R|², of which only a report's relative error is made: on tensor cores, each operand as the sum of two
/// bf16 numbers (16 bits of significand), without the product of the two small parts. Its error is below 1e-5
/// of the norm. In single precision it would cost as much as the whole solve.
namespace gptq::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = kSolveTile;
constexpr int kDepth = 16;
constexpr int kPairs = kDepth / 2;
constexpr int kStride = kTile + 8;          // fragments' 4 x 8 words meet 32 different banks
constexpr int kOperand = kPairs * kStride;  // words: pairs of neighbouring k, of each row or column
constexpr int kStage = 4 * kOperand;        // large and small parts of W and R
constexpr std::size_t kShared = (2 * kStage) * sizeof(std::uint32_t);

/// Four values of two neighbouring k.
struct Fetched {
  float4 even, odd;
};

__device__ inline float4 load_four(const float* from, bool whole, int valid) {
  if (whole) return *reinterpret_cast<const float4*>(from);
  float4 result = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  if (valid > 0) result.x = from[0];
  if (valid > 1) result.y = from[1];
  if (valid > 2) result.z = from[2];
  if (valid > 3) result.w = from[3];
  return result;
}

/// x = large + small, both as bf16.
__device__ inline void split(float x, float& large, float& small) {
  large = __bfloat162float(__float2bfloat16_rn(x));
  small = x - large;
}
__device__ inline std::uint32_t pack(float even, float odd) {
  const auto low = static_cast<std::uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(even)));
  const auto high = static_cast<std::uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(odd)));
  return low | high << 16;
}

__device__ inline void store_split(const Fetched& x, std::uint32_t* large_words, std::uint32_t* small_words) {
  const float even[4] = {x.even.x, x.even.y, x.even.z, x.even.w};
  const float odd[4] = {x.odd.x, x.odd.y, x.odd.z, x.odd.w};
  std::uint32_t large[4];
  std::uint32_t small[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float even_large, even_small, odd_large, odd_small;
    split(even[i], even_large, even_small);
    split(odd[i], odd_large, odd_small);
    large[i] = pack(even_large, odd_large);
    small[i] = pack(even_small, odd_small);
  }
  *reinterpret_cast<uint4*>(large_words) = make_uint4(large[0], large[1], large[2], large[3]);
  *reinterpret_cast<uint4*>(small_words) = make_uint4(small[0], small[1], small[2], small[3]);
}

/// Fragments of one operand's part: words [pair][index].
__device__ inline void load_a(const std::uint32_t* words, int row, int group, int member,
                              std::uint32_t (&a)[4]) {
  a[0] = words[member * kStride + row + group];
  a[1] = words[member * kStride + row + 8 + group];
  a[2] = words[(member + 4) * kStride + row + group];
  a[3] = words[(member + 4) * kStride + row + 8 + group];
}
__device__ inline void load_b(const std::uint32_t* words, int column, int group, int member,
                              std::uint32_t (&b)[2]) {
  b[0] = words[member * kStride + column + group];
  b[1] = words[(member + 4) * kStride + column + group];
}

/// A tile of 128 rows and columns of W·R; a warp has 32 rows and 64 columns.
struct Product {
  float sum[2][8][4] = {};

  __device__ void add(const std::uint32_t* stage, int row, int column, int lane) {
    const int group = lane / 4;
    const int member = lane % 4;
    std::uint32_t large[2][4];
    std::uint32_t small[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      load_a(stage, row + 16 * i, group, member, large[i]);
      load_a(stage + kOperand, row + 16 * i, group, member, small[i]);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      std::uint32_t b_large[2];
      std::uint32_t b_small[2];
      load_b(stage + 2 * kOperand, column + 8 * j, group, member, b_large);
      load_b(stage + 3 * kOperand, column + 8 * j, group, member, b_small);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        mma_m16n8k16(sum[i][j], large[i], b_large);
        mma_m16n8k16(sum[i][j], large[i], b_small);
        mma_m16n8k16(sum[i][j], small[i], b_large);
      }
    }
  }

  /// Sum over this warp's columns of row 16 * i + 8 * half + group; every member gets it.
  __device__ float squares(int i, int half) const {
    float result = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      result = fmaf(sum[i][j][2 * half], sum[i][j][2 * half], result);
      result = fmaf(sum[i][j][2 * half + 1], sum[i][j][2 * half + 1], result);
    }
    result += __shfl_xor_sync(kAllLanes, result, 1);
    result += __shfl_xor_sync(kAllLanes, result, 2);
    return result;
  }
};

__global__ void __launch_bounds__(kThreads, 2)
    project_tile(const float* w, std::int64_t rows, const float* r, std::int64_t n, float* parts) {
  std::uint32_t* const stages = dynamic_shared<std::uint32_t>();
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const std::int64_t tile = gridDim.y - 1 - blockIdx.y;  // the deepest first
  const std::int64_t column0 = tile * kTile;
  const std::int64_t depth = column0 + kTile < n ? column0 + kTile : n;  // R is upper triangular
  const int steps = static_cast<int>((depth + kDepth - 1) / kDepth);

  const int pair = warp;  // 8 warps fetch 8 pairs
  const int quad = 4 * lane;
  const std::int64_t left = n - column0 - quad;
  const int valid = left >= 4 ? 4 : (left > 0 ? static_cast<int>(left) : 0);
  const bool whole = valid == 4 && n % 4 == 0;
  const auto fetch_w = [&](std::int64_t k) { return load_four(w + k * rows + row0 + quad, k < depth, 0); };
  const auto fetch_r = [&](std::int64_t k) {
    return load_four(r + k * n + column0 + quad, whole && k < depth, k < depth ? valid : 0);
  };
  Fetched a{}, b{};
  const auto fetch = [&](int step) {
    const std::int64_t k = static_cast<std::int64_t>(step) * kDepth + 2 * pair;
    a = {fetch_w(k), fetch_w(k + 1)};
    b = {fetch_r(k), fetch_r(k + 1)};
  };
  const auto store = [&](int step) {
    std::uint32_t* const stage = stages + step % 2 * kStage + pair * kStride + quad;
    store_split(a, stage, stage + kOperand);
    store_split(b, stage + 2 * kOperand, stage + 3 * kOperand);
  };

  const int row = warp / 2 * 32;
  const int column = warp % 2 * 64;
  Product product;
  fetch(0);
  store(0);
  for (int step = 0; step < steps; ++step) {
    __syncthreads();  // this step's stage is written, and the other one has been read
    if (step + 1 < steps) fetch(step + 1);
    product.add(stages + step % 2 * kStage, row, column, lane);
    if (step + 1 < steps) store(step + 1);
  }

  __syncthreads();
  float* const halves = reinterpret_cast<float*>(stages);  // (2, 128)
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float squares = product.squares(i, half);
      if (lane % 4 == 0) halves[warp % 2 * kTile + row + 16 * i + 8 * half + lane / 4] = squares;
    }
  __syncthreads();
  if (thread < kTile) parts[tile * rows + row0 + thread] = halves[thread] + halves[kTile + thread];
}

__global__ void __launch_bounds__(kThreads)
    add_tiles(const float* parts, std::int64_t tiles, std::int64_t rows, double* norm) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= rows) return;
  double sum = 0;
  for (std::int64_t tile = 0; tile < tiles; ++tile) sum += parts[tile * rows + row];
  norm[row] = sum;
}

}  // namespace

void project_norms(const CudaContext& context, const float* w, std::int64_t rows, const float* r,
                   std::int64_t n, float* parts) {
  launch(context, project_tile, dim3(static_cast<unsigned>(rows / kTile), blocks_for(n, kTile)),
         dim3(kThreads), kShared, w, rows, r, n, parts);
}

void add_norms(const CudaContext& context, const float* parts, std::int64_t tiles, std::int64_t rows,
               double* norm) {
  launch(context, add_tiles, dim3(blocks_for(rows, kThreads)), dim3(kThreads), 0, parts, tiles, rows, norm);
}

}  // namespace gptq::cuda
