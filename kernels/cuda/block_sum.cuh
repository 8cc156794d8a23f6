#pragma once

#include "kernels/cuda/device.cuh"

/// Private to kernels/cuda.
namespace gptq::cuda {

constexpr int kMostWarps = 32;  // of a block

/// Sums over the block in a fixed order; every thread gets the result. All threads, whole warps. parts:
/// shared, kMostWarps elements, free for other use after a barrier.
template <typename T>
__device__ inline T block_sum(T x, T* parts) {
  const int thread = static_cast<int>(threadIdx.x);
  x = warp_sum(x);
  if (thread % 32 == 0) parts[thread / 32] = x;
  __syncthreads();
  T sum = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / 32; ++w) sum += parts[w];
  return sum;
}

}  // namespace gptq::cuda
