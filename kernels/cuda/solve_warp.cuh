#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/solve_tasks.h"

/// How the kernels that visit the columns of a batch one by one share their work: a warp has 8 rows and needs
/// no other warp; a block's warps share a (128, 128) matrix in shared memory, where the warp's rows lie too.
/// In products a lane has 4 neighbouring columns of all 8 rows. While columns are visited, 4 lanes have one
/// row: lane `sub` holds columns sub, sub + 4, … of a piece of at most 32 in registers. Products add their
/// terms in rising order of columns, as the CPU does: the same values give the same bits.
namespace gptq::cuda {

constexpr int kColumns = kSolveTile;
constexpr int kWarpRows = 8;
constexpr int kLanes = 4;  // of a row
constexpr int kPiece = 32;
constexpr int kOwn = kPiece / kLanes;
constexpr int kStride =
    kColumns + 4;  // of a row in shared memory: 8 rows times 4 lanes meet 32 different banks
constexpr int kMaxWarps = 8;
constexpr int kTriangle = kColumns * kColumns;
constexpr int kWarpFloats = kWarpRows * kStride;

/// Where a lane is while columns are visited.
struct RowLane {
  int local;  ///< row of the warp
  int sub;    ///< 0..3
  std::int64_t row;
};

/// values[r][0..3] = row r's columns [column, column + 4) of v.
__device__ inline void load_quads(const float* v, int column, float (&values)[kWarpRows][4]) {
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    const float4 four = *reinterpret_cast<const float4*>(v + r * kStride + column);
    values[r][0] = four.x;
    values[r][1] = four.y;
    values[r][2] = four.z;
    values[r][3] = four.w;
  }
}
__device__ inline void store_quads(float* v, int column, const float (&values)[kWarpRows][4]) {
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r)
    *reinterpret_cast<float4*>(v + r * kStride + column) =
        make_float4(values[r][0], values[r][1], values[r][2], values[r][3]);
}

/// The same from memory, where rows of one column are neighbours: from points to (row0, column 0) of (count,
/// rows). Columns from count on are 0.
__device__ inline void load_columns(const float* from, std::int64_t rows, int count, int column,
                                    float (&values)[kWarpRows][4]) {
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const bool valid = column + c < count;
    const float* const of_column = from + (column + c) * rows;
#pragma unroll
    for (int r = 0; r < kWarpRows; r += 4) {
      const float4 four =
          valid ? *reinterpret_cast<const float4*>(of_column + r) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      values[r][c] = four.x;
      values[r + 1][c] = four.y;
      values[r + 2][c] = four.z;
      values[r + 3][c] = four.w;
    }
  }
}

/// values += or -= v[:, from:to] · matrix[from:to, column:column + 4]
template <bool kSubtract>
__device__ inline void add_product(const float* matrix, const float* v, int from, int to, int column,
                                   float (&values)[kWarpRows][4]) {
#pragma unroll 4
  for (int k = from; k < to; ++k) {
    const float4 u = *reinterpret_cast<const float4*>(matrix + k * kColumns + column);
    const float factor[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      const float x = v[r * kStride + k];
#pragma unroll
      for (int c = 0; c < 4; ++c) values[r][c] = fmaf(x, kSubtract ? -factor[c] : factor[c], values[r][c]);
    }
  }
}

/// Columns [last, end) of v -= columns [first, last) of v · matrix.
__device__ inline void pass_on(const float* matrix, float* v, int first, int last, int end, int lane) {
  const int column = 4 * lane;
  float values[kWarpRows][4];
  load_quads(v, column, values);
  add_product<true>(matrix, v, first, last, column, values);
  __syncwarp();
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r)
#pragma unroll
    for (int c = 0; c < 4; ++c)
      if (column + c >= last && column + c < end) v[r * kStride + column + c] = values[r][c];
  __syncwarp();
}

/// Warps of a block. Half as many rows a block spread few rows over more multiprocessors, but only as long as
/// all blocks run at once, two on each: else the second round would take as long as the first. A row's
/// arithmetic is the same.
inline int warps_for(const CudaContext& context, std::int64_t rows) {
  constexpr int few = kMaxWarps / 2;
  return rows / (few * kWarpRows) > 2 * context.multiprocessors() ? kMaxWarps : few;
}

}  // namespace gptq::cuda
