#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/cuda_context.h"
#include "kernels/kernels.h"

/// Private to kernels/cuda: the parts of a call, laid one behind the other and cut into slices of rows that
/// fit into memory.
namespace gptq::cuda {

/// What a slice has of one part.
struct PartRows {
  const RowsToSolve* part;
  std::size_t number;         ///< of the part
  std::int64_t first, count;  ///< rows of the part
  std::int64_t at;            ///< the first one's place in the slice
};

/// Rows [first, first + count) of the parts laid one behind the other.
std::vector<PartRows> rows_in_slice(std::span<const RowsToSolve> parts, std::int64_t first,
                                    std::int64_t count);

/// Where a slice's weights go; all device memory.
struct SliceTarget {
  std::int64_t n = 0, rows = 0;
  const int* position = nullptr;       ///< (n), by column
  const std::uint8_t* dead = nullptr;  ///< (n), by column: becomes 0
  float* w = nullptr;       ///< (n, rows): columns in visiting order; rows of no part are left alone
  void* staging = nullptr;  ///< for rows as the files have them, at least one row of floats
  std::size_t staging_bytes = 0;
  double* norm = nullptr;       ///< (rows): square sums of all weights; null: not wanted
  double* dead_norm = nullptr;  ///< (rows): of the dead columns'
};

/// From the copy that the forward pass uses where there is one, else through the staging memory.
void load_slice(CudaContext& context, const SliceTarget& target, std::span<const PartRows> slice);

/// Scales and zeros of (count, groups) in host memory to rows [at, at + count) of scale and zero (groups,
/// rows) in device memory; rows from there to `end` get scale 1 and zero 0.
struct ScaleTarget {
  std::int64_t groups = 0, rows = 0;
  float* scale = nullptr;
  float* zero = nullptr;
};
void load_given_scales(CudaContext& context, const ScaleTarget& target, const f16* scales,
                       const std::uint8_t* zeros, std::int64_t at, std::int64_t count, std::int64_t end);

}  // namespace gptq::cuda
