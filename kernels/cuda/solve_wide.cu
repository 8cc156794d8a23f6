#include "kernels/cuda/solve_tile.cuh"

namespace gptq::cuda {
namespace {

/// Four neighbouring floats of a row of b from global to shared memory; 0 unless they exist.
template <bool kAligned>
__device__ inline void copy_four(float* to, const float* from, bool exists, std::int64_t columns) {
  if constexpr (kAligned) {
    cp_async_16(to, from, exists && columns > 0);
  } else {
    *reinterpret_cast<float4*>(to) =
        make_float4(exists && columns > 0 ? from[0] : 0.0f, exists && columns > 1 ? from[1] : 0.0f,
                    exists && columns > 2 ? from[2] : 0.0f, exists && columns > 3 ? from[3] : 0.0f);
  }
}

/// Copies kDepth rows of both operands from row k0 on.
template <bool kAligned>
__device__ inline void fetch(const WideProduct& product, std::int64_t row0, std::int64_t column0,
                             std::int64_t k0, float* stage) {
  constexpr int quads = kTile / 4;
#pragma unroll
  for (int i = 0; i < kDepth * quads / kTileThreads; ++i) {
    const int item = static_cast<int>(threadIdx.x) + i * kTileThreads;
    const int k = item / quads;
    const int quad = item % quads * 4;
    const bool exists = k0 + k < product.depth;
    const std::int64_t from = exists ? k0 + k : 0;
    cp_async_16(stage + k * kTile + quad, product.x + from * product.rows + row0 + quad, exists);
    const std::int64_t b_row = product.b_rows == nullptr ? from : product.b_rows[from];
    const std::int64_t left = product.n - column0 - quad;
    copy_four<kAligned>(stage + (kDepth + k) * kTile + quad,
                        product.b + b_row * product.n + column0 + (left > 0 ? quad : 0), exists, left);
  }
}

/// Block (x, y): 128 rows, the y-th 128 columns from the tile of first_column on. All of the depth in one
/// sum, which goes on from `out` where it accumulates.
template <bool kAligned>
__global__ void __launch_bounds__(kTileThreads, 2) multiply_wide_tile(const WideProduct product) {
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const std::int64_t column0 = (product.first_column / kTile + blockIdx.y) * kTile;
  const TilePlace at;
  const auto place = [&](int j) {
    return (column0 + at.column + (j < 4 ? j : j + 28)) * product.rows + row0 + at.row;
  };
  const auto exists = [&](int j) { return column0 + at.column + (j < 4 ? j : j + 28) < product.n; };

  float sum[8][8] = {};
  if (product.accumulate) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if (!exists(j)) continue;
      float column[8];
      load_halves(product.out + place(j), 16, column);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i][j] = column[i];
    }
  }
  const int steps = static_cast<int>((product.depth + kDepth - 1) / kDepth);
  multiply_tile(
      dynamic_shared<float>(), steps, at,
      [&](int step, float* stage) {
        fetch<kAligned>(product, row0, column0, static_cast<std::int64_t>(step) * kDepth, stage);
      },
      sum);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    if (!exists(j)) continue;
    float* const to = product.out + place(j);
    *reinterpret_cast<float4*>(to) = make_float4(sum[0][j], sum[1][j], sum[2][j], sum[3][j]);
    *reinterpret_cast<float4*>(to + 16) = make_float4(sum[4][j], sum[5][j], sum[6][j], sum[7][j]);
  }
}

}  // namespace

void multiply_wide(const CudaContext& context, const WideProduct& product) {
  if (product.first_column >= product.n) return;
  const std::int64_t columns = product.n - product.first_column / kTile * kTile;
  const bool aligned = product.n % 4 == 0 && reinterpret_cast<std::uintptr_t>(product.b) % 16 == 0;
  launch(context, aligned ? multiply_wide_tile<true> : multiply_wide_tile<false>,
         dim3(static_cast<unsigned>(product.rows / kTile), blocks_for(columns, kTile)), dim3(kTileThreads),
         kTileShared, product);
}

}  // namespace gptq::cuda
