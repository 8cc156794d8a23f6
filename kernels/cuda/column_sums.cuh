#pragma once

#include "kernels/cuda/device.cuh"

/// Sums over a row's columns where neighbouring rows lie together: a block has 32 rows, one a lane, and warp
/// w the columns w, w + 16, ….
namespace gptq::cuda {

constexpr int kSumWarps = 16;
constexpr int kSumThreads = kSumWarps * 32;

struct ColumnSums {
  int warp, lane;
  std::int64_t row;

  __device__ ColumnSums()
      : warp(static_cast<int>(threadIdx.x) / 32),
        lane(static_cast<int>(threadIdx.x) % 32),
        row(static_cast<std::int64_t>(blockIdx.x) * 32 + lane) {}

  /// The warps' parts of this lane's row, added in order. By all threads; parts: shared (kSumThreads).
  __device__ double add(double mine, double* parts) const {
    parts[threadIdx.x] = mine;
    __syncthreads();
    double sum = 0;
    for (int w = 0; w < kSumWarps; ++w) sum += parts[w * 32 + lane];
    return sum;
  }
};

}  // namespace gptq::cuda
