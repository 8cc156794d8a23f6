#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "kernels/cuda/device.cuh"

/// Private to the forward kernels: rows are read and written in packs of eight neighbouring elements, by
/// 16-byte accesses where the row allows it. Which thread gets which pack never depends on that.
namespace gptq::cuda {

constexpr int kPack = 8;

struct Pack {
  float v[kPack];
};

/// Whether every row begins on a 16-byte boundary.
inline bool rows_aligned(const void* data, std::int64_t stride, DType dtype) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 &&
         stride * static_cast<std::int64_t>(size_of(dtype)) % 16 == 0;
}
inline bool rows_aligned(const Matrix& m) {
  return rows_aligned(m.data, m.stride, m.dtype);
}

/// Threads of a block that has a row of `cols` elements to itself: whole warps, at most 256 threads.
inline unsigned threads_for_row(std::int64_t cols) {
  const std::int64_t packs = (cols + kPack - 1) / kPack;
  return packs >= 256 ? 256u : packs <= 32 ? 32u : static_cast<unsigned>((packs + 31) / 32 * 32);
}

template <typename T>
struct alignas(16) SixteenBytes {
  static constexpr int kCount = 16 / sizeof(T);
  T v[kCount];
};

/// Elements [col, col+8) of a row of `cols`; those beyond its end are `fill`. aligned: the row begins on a
/// 16-byte boundary; col is a multiple of 8.
template <typename T>
__device__ inline Pack load_pack(const T* row, std::int64_t col, std::int64_t cols, bool aligned,
                                 float fill = 0.0f) {
  Pack pack;
  if (aligned && col + kPack <= cols) {
    using Piece = SixteenBytes<T>;
    const Piece* const pieces = reinterpret_cast<const Piece*>(row + col);
#pragma unroll
    for (int p = 0; p < kPack / Piece::kCount; ++p) {
      const Piece piece = pieces[p];
#pragma unroll
      for (int i = 0; i < Piece::kCount; ++i) pack.v[p * Piece::kCount + i] = to_float(piece.v[i]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kPack; ++i) pack.v[i] = col + i < cols ? to_float(row[col + i]) : fill;
  }
  return pack;
}

/// Rounds the pack into elements [col, col+8) of a row of `cols`; those beyond its end are left alone.
template <typename T>
__device__ inline void store_pack(T* row, std::int64_t col, std::int64_t cols, bool aligned,
                                  const Pack& pack) {
  if (aligned && col + kPack <= cols) {
    using Piece = SixteenBytes<T>;
    Piece* const pieces = reinterpret_cast<Piece*>(row + col);
#pragma unroll
    for (int p = 0; p < kPack / Piece::kCount; ++p) {
      Piece piece;
#pragma unroll
      for (int i = 0; i < Piece::kCount; ++i) piece.v[i] = from_float<T>(pack.v[p * Piece::kCount + i]);
      pieces[p] = piece;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kPack; ++i)
      if (col + i < cols) row[col + i] = from_float<T>(pack.v[i]);
  }
}

}  // namespace gptq::cuda
