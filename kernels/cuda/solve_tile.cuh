#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/solve_tasks.h"

/// A tile of 128 rows and columns of a product in full single precision, by a block of 256 threads. A warp
/// has 32 rows and 64 columns; a thread rows {0..3, 16..19} and columns {0..3, 32..35} of its corner, so that
/// a warp's loads of shared memory are 64 and 128 consecutive bytes. Sums run over rising k, one product
/// after the other.
namespace gptq::cuda {

constexpr int kTileThreads = 256;
constexpr int kTile = kSolveTile;
constexpr int kDepth = 16;  // of a stage: rows of both operands in shared memory
constexpr int kStages = 3;
constexpr int kStage = 2 * kDepth * kTile;  // floats: both operands
constexpr std::size_t kTileShared = kStages * kStage * sizeof(float);
static_assert(kSolveChunk % kDepth == 0 && kTileShared <= 48 * 1024);

struct TilePlace {
  int row, column;  ///< this thread's corner

  __device__ TilePlace() {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    row = warp / 2 * 32 + lane / 8 * 4;
    column = warp % 2 * 64 + lane % 8 * 4;
  }
};

__device__ inline void load_halves(const float* from, int apart, float (&to)[8]) {
  const float4 first = *reinterpret_cast<const float4*>(from);
  const float4 second = *reinterpret_cast<const float4*>(from + apart);
  to[0] = first.x;
  to[1] = first.y;
  to[2] = first.z;
  to[3] = first.w;
  to[4] = second.x;
  to[5] = second.y;
  to[6] = second.z;
  to[7] = second.w;
}

/// sum += one stage's products.
__device__ inline void multiply_stage(const float* stage, const TilePlace& at, float (&sum)[8][8]) {
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
    float x[8];
    float y[8];
    load_halves(stage + k * kTile + at.row, 16, x);
    load_halves(stage + (kDepth + k) * kTile + at.column, 32, y);
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
  }
}

/// sum += `steps` stages. fetch(step, stage) starts the copies of a step's operands and commits none of them.
template <typename Fetch>
__device__ inline void multiply_tile(float* stages, int steps, const TilePlace& at, const Fetch& fetch,
                                     float (&sum)[8][8]) {
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) fetch(s, stages + s * kStage);
    cp_async_commit();
  }
  int slot = 0;
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kStages - 2>();
    __syncthreads();  // this stage has arrived, and the one to be overwritten has been read
    const int next = step + kStages - 1;
    if (next < steps) fetch(next, stages + (slot == 0 ? kStages - 1 : slot - 1) * kStage);
    cp_async_commit();
    multiply_stage(stages + slot * kStage, at, sum);
    slot = slot == kStages - 1 ? 0 : slot + 1;
  }
}

}  // namespace gptq::cuda
