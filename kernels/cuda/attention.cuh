#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/device.cuh"
#include "kernels/kernels.h"

/// What the attention kernels share. Both cut each sample's queries into tiles of fixed height, one block of
/// threads per (sample, head, tile); a block passes over the keys in tiles from the first to the last with a
/// running softmax. A query's bits therefore depend on its own sample alone.
namespace gptq::cuda {

/// Stands for minus infinity in a running maximum: lower than any score, but differences of it are finite.
/// Masked scores are -INFINITY instead, so that their weight is 0 even where a row has seen no key yet.
constexpr float kLowestScore = -1e30f;
constexpr float kLog2E = 1.44269504f;

/// One launch, by value. Strides in elements.
template <typename T>
struct AttentionArguments {
  static constexpr int kMostSamples = 256;

  const T* q;
  const T* k;
  const T* v;
  T* out;
  std::int64_t q_stride, k_stride, v_stride, out_stride;
  int heads;
  int group;  ///< query heads that share a key head
  int head_dim;
  int window;  ///< 0: none
  float scale;
  float softcap;          ///< 0: none
  const float* key_bias;  ///< of all heads; null: none
  int key_bias_positions;
  int samples;
  int tiles;                               ///< of the longest sample
  std::int64_t offsets[kMostSamples + 1];  ///< sample s holds rows [offsets[s], offsets[s + 1])
};

/// What one block computes.
struct AttentionWork {
  std::int64_t sample_row;  ///< the sample's first row
  int length;               ///< of the sample
  int head;
  int first_query;  ///< position in the sample; >= length where the sample is too short to have this tile
};

/// The last tiles, which see most keys, come first, so that the blocks end together; the heads of a sample
/// are neighbours, because they read the same keys.
template <typename T>
__device__ inline AttentionWork attention_work(const AttentionArguments<T>& arguments, unsigned block,
                                               int tile_rows) {
  const unsigned per_tile = static_cast<unsigned>(arguments.samples * arguments.heads);
  const int rank = static_cast<int>(block / per_tile);
  const int rest = static_cast<int>(block % per_tile);
  const int sample = rest / arguments.heads;
  const std::int64_t first = arguments.offsets[sample];
  return {first, static_cast<int>(arguments.offsets[sample + 1] - first), rest % arguments.heads,
          (arguments.tiles - 1 - rank) * tile_rows};
}

/// The tiles [first, last] of `keys` keys that a tile of queries sees.
struct KeyTiles {
  int first, last;
};
__device__ inline KeyTiles key_tiles(const AttentionWork& work, int queries, int keys, int window) {
  const int oldest = window > 0 ? max(0, work.first_query - window + 1) : 0;
  return {oldest / keys, (min(work.first_query + queries, work.length) - 1) / keys};
}

/// The head's key_bias; null: none.
template <typename T>
__device__ inline const float* key_bias_of(const AttentionArguments<T>& arguments, int head) {
  if (arguments.key_bias == nullptr) return nullptr;
  return arguments.key_bias + static_cast<std::int64_t>(head) * arguments.key_bias_positions;
}

/// Calls body(arguments) with the samples of each launch filled in.
template <typename T, typename Body>
void for_each_launch(const Batch& batch, AttentionArguments<T> arguments, int tile_rows, const Body& body) {
  constexpr std::int64_t kMost = AttentionArguments<T>::kMostSamples;
  for (std::int64_t first = 0; first < batch.samples(); first += kMost) {
    const std::int64_t count = std::min(kMost, batch.samples() - first);
    const std::int64_t* const offsets = batch.offsets.data() + first;
    std::int64_t longest = 0;
    for (std::int64_t s = 0; s < count; ++s) longest = std::max(longest, offsets[s + 1] - offsets[s]);
    std::copy_n(offsets, count + 1, arguments.offsets);
    arguments.samples = static_cast<int>(count);
    arguments.tiles = static_cast<int>((longest + tile_rows - 1) / tile_rows);
    body(arguments);
  }
}

template <typename T>
AttentionArguments<T> attention_arguments(const AttentionShape& shape, const Matrix& q, const Matrix& k,
                                          const Matrix& v, const Matrix& out) {
  AttentionArguments<T> arguments{};
  arguments.q = q.row<const T>(0);
  arguments.k = k.row<const T>(0);
  arguments.v = v.row<const T>(0);
  arguments.out = out.row<T>(0);
  arguments.q_stride = q.stride;
  arguments.k_stride = k.stride;
  arguments.v_stride = v.stride;
  arguments.out_stride = out.stride;
  arguments.heads = static_cast<int>(shape.heads);
  arguments.group = static_cast<int>(shape.heads / shape.kv_heads);
  arguments.head_dim = static_cast<int>(shape.head_dim);
  arguments.window = static_cast<int>(std::min<std::int64_t>(shape.window, 1 << 30));
  arguments.scale = shape.scale;
  arguments.softcap = shape.logit_softcap;
  arguments.key_bias = shape.key_bias;
  arguments.key_bias_positions = static_cast<int>(shape.key_bias_positions);
  return arguments;
}

/// Whether attention_bf16 can take these: bf16, head_dim a multiple of 8 up to 256, and rows that can be
/// moved 16 bytes at a time.
bool attention_bf16_takes(const AttentionShape& shape, const Matrix& q, const Matrix& k, const Matrix& v,
                          const Matrix& out);
/// On tensor cores; weights are rounded to bf16 before they meet v, everything else is f32.
void attention_bf16(const CudaContext& context, const Batch& batch, const AttentionShape& shape,
                    const Matrix& q, const Matrix& k, const Matrix& v, const Matrix& out);
/// Any shape in f32 arithmetic; f32 or bf16 matrices.
void attention_f32(const CudaContext& context, const Batch& batch, const AttentionShape& shape,
                   const Matrix& q, const Matrix& k, const Matrix& v, const Matrix& out);

}  // namespace gptq::cuda
