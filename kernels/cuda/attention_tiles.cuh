#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ptx.cuh"

/// Tiles of bf16 rows in shared memory, as attention_bf16.cu uses them.
namespace gptq::cuda {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kChunk = 8;  // elements of one 16-byte access

/// kDim: head_dim filled up with zeros. Sizes keep two blocks of four warps on a multiprocessor without
/// spilled registers, and a block below 99 KiB of shared memory, the most of GPUs like sm_86.
template <int kDim>
struct Tiling {
  static constexpr int kRowTiles = kDim <= 128 ? 2 : 1;  // of 16 queries, per warp
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kRows = kWarps * kWarpRows;
  static constexpr int kKeys = kDim <= 64 ? 64 : 32;
  static constexpr int kKeyTiles = kKeys / 8;
  static constexpr int kChunks = kDim / kChunk;
  static constexpr int kStage = 2 * kKeys * kDim;  // elements: keys, then values
  static constexpr std::size_t kSharedBytes = sizeof(bfloat16) * (kRows * kDim + 2 * kStage);
};
template <int kDim>
using Scores = float[Tiling<kDim>::kRowTiles][Tiling<kDim>::kKeyTiles][4];

/// Rows lie in shared memory in chunks of 16 bytes, whose order is turned from row to row, such that the same
/// chunk of eight neighbouring rows falls on all 32 banks. This is what a row's chunk numbers are XORed with.
template <int kDim>
__device__ inline int turn_of(int row) {
  return kDim % 64 == 0 ? row & 7 : row >> 1 & 3;
}
/// Element index of a chunk.
template <int kDim>
__device__ inline int chunk_at(int row, int chunk) {
  return row * kDim + (chunk ^ turn_of<kDim>(row)) * kChunk;
}

/// What a lane gives to ldmatrix: the chunk `odd` (0 or 1) of each pair of chunks of its row, and of the
/// rows 16, 32, ... further down. One XOR an address; all else is constant.
template <int kDim>
class LaneRow {
 public:
  __device__ inline LaneRow(const bfloat16* tile, int row, int odd)
      : tile_(tile), first_(chunk_at<kDim>(row, odd)) {}
  /// rows_below: a multiple of 16
  __device__ inline const bfloat16* at(int rows_below, int pair) const {
    constexpr int kTurned = kDim % 64 == 0 ? 7 : 3;  // bits of a chunk's number that turn_of() changes
    const int chunk = 2 * pair;
    return tile_ + (first_ ^ (chunk & kTurned) * kChunk) + (chunk & ~kTurned) * kChunk + rows_below * kDim;
  }

 private:
  const bfloat16* tile_;
  int first_;
};

/// One thread's part in copying tiles of a head's rows to shared memory. So many neighbouring threads share a
/// row that a thread's place in the swizzle is the same for all its rows, and addresses advance by constants.
template <int kDim>
class TileCopy {
 public:
  /// source: the sample's first row, the head's first column.
  __device__ inline TileCopy(const bfloat16* source, std::int64_t stride, int length, int head_dim)
      : length_(length),
        stride_(static_cast<int>(stride)),
        row_(static_cast<int>(threadIdx.x) / kSharing),
        columns_(head_dim - static_cast<int>(threadIdx.x) % kSharing * kChunk),
        source_(source + static_cast<int>(threadIdx.x) % kSharing * kChunk) {}

  /// Starts the copy of rows [first, first + kRows); what lies beyond the sample's rows or the head's columns
  /// becomes 0.
  template <int kRows>
  __device__ inline void fetch(bfloat16* tile, int first) const {
    int row = first + row_;
    const bfloat16* from = source_ + static_cast<std::int64_t>(row) * stride_;
    bfloat16* to = tile + chunk_at<kDim>(row_, static_cast<int>(threadIdx.x) % kSharing);
#pragma unroll
    for (int i = 0; i < kRows / kRowsAtOnce; ++i) {
#pragma unroll
      for (int column = 0; column < kDim; column += kSharing * kChunk) {
        const bool valid = row < length_ && column < columns_;
        cp_async_16(to + column, valid ? from + column : source_, valid);
      }
      row += kRowsAtOnce;
      from += static_cast<std::int64_t>(kRowsAtOnce) * stride_;
      to += kRowsAtOnce * kDim;
    }
  }

 private:
  static constexpr int kSharing = kDim % 64 == 0 ? 8 : 4;  // threads to a row
  static constexpr int kRowsAtOnce = kThreads / kSharing;

  int length_, stride_;
  int row_;      // the thread's first row of a tile
  int columns_;  // left of the head from the thread's first one on
  const bfloat16* source_;
};

}  // namespace gptq::cuda
