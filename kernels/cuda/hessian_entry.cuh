#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/hessian_panels.cuh"
#include "kernels/cuda/hessian_view.h"

/// Private to kernels/cuda.
namespace gptq::cuda {

/// H of columns i and j: not damped, dead columns as they are.
__device__ inline double hessian_entry(const HessianView& h, int i, int j) {
  const int row = min(i, j), col = max(i, j);
  return static_cast<double>(h.sum[panel_row(h.n, row) + col]) * h.scale * h.unit[j] * h.unit[i];
}

/// H + λI of columns i and j, where a dead column's H_ii counts as 1.
__device__ inline double damped_hessian_entry(const HessianView& h, int i, int j) {
  const double entry = hessian_entry(h, i, j);
  return i == j ? (h.dead[i] != 0 ? 1.0 : entry) + h.damping : entry;
}

constexpr int kEntryThreads = 256;

/// Blocks of kEntryThreads threads for an (n, n) matrix: x counts columns, y rows, of which a block may have
/// several.
inline dim3 grid_of_entries(std::int64_t n) {
  return dim3(blocks_for(n, kEntryThreads), static_cast<unsigned>(n < 65535 ? n : 65535));
}

}  // namespace gptq::cuda
