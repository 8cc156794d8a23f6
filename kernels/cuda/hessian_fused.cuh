#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ptx.cuh"

/// The product of hessian_fused.cu: a block's 128×256 tile of XᵀX from bf16 X, row-major, by tensor cores.
/// Both operands are columns of the same X, whose rows are the summed dimension: the slow one, so that
/// matrices are turned on their way from shared memory to registers (ldmatrix.trans).
namespace gptq::cuda::fused {

constexpr int kTileRows = 128, kTileCols = 256;  // of XᵀX
constexpr int kStep = 32;                        // rows of X that a stage holds
constexpr int kStages = 4;
constexpr int kThreads = 256;                                        // 2×4 warps of 64×64 outputs each
constexpr int kRowBytes = kTileRows * 2, kColBytes = kTileCols * 2;  // of a row of X in a stage
constexpr int kStageBytes = kStep * (kRowBytes + kColBytes);
constexpr int kSharedBytes = kStages * kStageBytes;  // 96 KiB: one block on a multiprocessor of any kind

/// The chunk x (rows, n), rows `stride` apart; see accumulate_fused.
struct Source {
  const bfloat16* x;
  std::int64_t stride;
  int rows, n;
};

/// Where a warp's 64×64 outputs begin within the tile.
struct WarpPlace {
  int row, col, lane;
};

__device__ inline WarpPlace warp_place() {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  return {warp / 4 * 64, warp % 4 * 64, static_cast<int>(threadIdx.x) % 32};
}

/// Byte of a stage's part where 16-byte piece `piece` of row k lies: the pieces of eight neighbouring rows
/// lie in different banks.
__device__ inline int piece_at(int k, int row_bytes, int piece) {
  return k * row_bytes + ((piece ^ (k & 7)) << 4);
}

/// Starts copying `row_bytes / 2` columns from first_col of rows [first_row, first_row + kStep); zeros beyond
/// the ends of x.
template <int row_bytes>
__device__ inline void load_columns(const Source& source, int first_row, int first_col, char* to) {
  constexpr int pieces = row_bytes / 16;
  const int piece = static_cast<int>(threadIdx.x) % pieces;
  const int col = first_col + piece * 8;
#pragma unroll
  for (int i = 0; i < kStep * pieces / kThreads; ++i) {
    const int k = static_cast<int>(threadIdx.x) / pieces + i * (kThreads / pieces);
    const bool valid = first_row + k < source.rows && col < source.n;
    const bfloat16* const from = source.x + (first_row + k) * source.stride + col;
    cp_async_16(to + piece_at(k, row_bytes, piece), valid ? from : source.x, valid);
  }
}

__device__ inline void load_stage(const Source& source, int step, int tile_row, int tile_col, char* stage) {
  load_columns<kRowBytes>(source, step * kStep, tile_row, stage);
  load_columns<kColBytes>(source, step * kStep, tile_col, stage + kStep * kRowBytes);
}

/// A warp's operands of 16 rows of X.
struct Fragments {
  std::uint32_t a[4][4];  ///< 4 × 16 rows of the tile
  std::uint32_t b[4][4];  ///< 4 × (8 + 8) columns of the tile
};

/// From rows [k, k + 16) of a stage.
__device__ inline void load_fragments(const char* stage, int k, const WarpPlace& place,
                                      Fragments& fragments) {
  const int lane = place.lane;
  const int a_row = k + lane / 16 * 8 + lane % 8, a_piece = place.row / 8 + lane / 8 % 2;
  const int b_row = k + lane / 8 % 2 * 8 + lane % 8, b_piece = place.col / 8 + lane / 16;
  const char* const b_stage = stage + kStep * kRowBytes;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    ldmatrix_x4_trans(fragments.a[i], stage + piece_at(a_row, kRowBytes, a_piece + 2 * i));
    ldmatrix_x4_trans(fragments.b[i], b_stage + piece_at(b_row, kColBytes, b_piece + 2 * i));
  }
}

__device__ inline void multiply(const Fragments& fragments, float (&sum)[4][8][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const std::uint32_t b[2] = {fragments.b[j / 2][j % 2 * 2], fragments.b[j / 2][j % 2 * 2 + 1]};
      mma_m16n8k16(sum[i][j], fragments.a[i], b);
    }
  }
}

/// sum = the warp's part of the tile's product over steps [begin, end) of kStep rows. stages: kSharedBytes,
/// free for other use afterwards.
__device__ inline void multiply_tile(const Source& source, int tile_row, int tile_col, int begin, int end,
                                     const WarpPlace& place, char* stages, float (&sum)[4][8][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[i][j][e] = 0;

        // One group of copies a step, empty at the end: so step s is there when at most two younger groups
        // are not.
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (begin + s < end) load_stage(source, begin + s, tile_row, tile_col, stages + s * kStageBytes);
    cp_async_commit();
  }
  cp_async_wait<kStages - 2>();
  __syncthreads();
  Fragments first, second;
  load_fragments(stages, 0, place, first);

  for (int step = begin; step < end; ++step) {
    const int at = (step - begin) % kStages;
    load_fragments(stages + at * kStageBytes, 16, place, second);
    // Into the stage before this one: all warps have read it since the last barrier but one.
    const int next = step + kStages - 1;
    if (next < end)
      load_stage(source, next, tile_row, tile_col, stages + (at + kStages - 1) % kStages * kStageBytes);
    cp_async_commit();
    multiply(first, sum);

    cp_async_wait<kStages - 2>();
    __syncthreads();
    if (step + 1 < end) load_fragments(stages + (at + 1) % kStages * kStageBytes, 0, place, first);
    multiply(second, sum);
  }
  cp_async_wait<0>();
  __syncthreads();
}

}  // namespace gptq::cuda::fused
