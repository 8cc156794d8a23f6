#include <cstring>

#include "base/error.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/ptx.cuh"

/// Attention on tensor cores, after FlashAttention-2 (Dao, arXiv 2307.08691): each warp keeps the scores and
/// the output of its queries in registers; keys and values pass through shared memory in tiles, the next one
/// on its way while one is computed with.
///
/// Layout of an mma m16n8k16: lane l holds of the sums (d) rows l/4 and l/4 + 8, columns 2(l%4) and the next.
/// The same pairs, two column tiles side by side, are the left operand of the next product, so the weights
/// never leave the registers.
namespace gptq::cuda {
namespace {

using Bf16Arguments = AttentionArguments<bfloat16>;

__device__ inline std::uint32_t pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  std::uint32_t bits;
  std::memcpy(&bits, &pair, sizeof(bits));
  return bits;
}

/// The largest, or the sum, over the four lanes that hold a row.
__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

/// One warp's queries: kRowTiles tiles of 16 rows, of which a lane holds rows [..][0] = lane/4 and [..][1] =
/// lane/4 + 8.
template <int kDim>
struct WarpQueries {
  static constexpr int kRowTiles = Tiling<kDim>::kRowTiles;
  static constexpr int kKeyTiles = Tiling<kDim>::kKeyTiles;
  static constexpr int kDimTiles = kDim / 8;

  float output[kRowTiles][kDimTiles][4];
  float maximum[kRowTiles][2];  // of the raw scores so far
  float sum[kRowTiles][2];      // of this lane's weights

  __device__ inline void clear() {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        maximum[r][part] = kLowestScore;
        sum[r][part] = 0;
      }
#pragma unroll
      for (int d = 0; d < kDimTiles; ++d) {
#pragma unroll
        for (int e = 0; e < 4; ++e) output[r][d][e] = 0;
      }
    }
  }

  /// Turns scores into weights; `factor` takes a score to the power of 2. Most tiles leave all maxima of a
  /// warp as they are, and then the output too (a product with 1 would not change its bits).
  __device__ inline void soften(Scores<kDim>& scores, float factor) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        float top = maximum[r][part];
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
          top = fmaxf(top, fmaxf(scores[r][n][2 * part], scores[r][n][2 * part + 1]));
        }
        top = row_max(top);
        const float shrink = fast_exp2((maximum[r][part] - top) * factor);
        maximum[r][part] = top;
        const float shift = top * factor;
        float added = 0;
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
          for (int e = 2 * part; e < 2 * part + 2; ++e) {
            scores[r][n][e] = fast_exp2(fmaf(scores[r][n][e], factor, -shift));
            added += scores[r][n][e];
          }
        }
        sum[r][part] = sum[r][part] * shrink + added;
        if (__any_sync(kAllLanes, shrink != 1)) {
#pragma unroll
          for (int d = 0; d < kDimTiles; ++d) {
            output[r][d][2 * part] *= shrink;
            output[r][d][2 * part + 1] *= shrink;
          }
        }
      }
    }
  }
};

/// scores = queries · keysᵀ; queries: the warp's first row is `row`.
template <int kDim>
__device__ inline void score(const bfloat16* queries, int row, const bfloat16* keys, Scores<kDim>& scores) {
  constexpr int kRowTiles = Tiling<kDim>::kRowTiles;
  constexpr int kKeyTiles = Tiling<kDim>::kKeyTiles;
  const int lane = static_cast<int>(threadIdx.x & 31);
  const LaneRow<kDim> query(queries, row + (lane & 15), lane >> 4);
  const LaneRow<kDim> key(keys, (lane & 7) + (lane >> 4) * 8, lane >> 3 & 1);
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) scores[r][n][e] = 0;
    }
  }
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    std::uint32_t a[kRowTiles][4];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      ldmatrix_x4(a[r], query.at(16 * r, step));
    }
#pragma unroll
    for (int pair = 0; pair < kKeyTiles / 2; ++pair) {
      std::uint32_t b[4];
      ldmatrix_x4(b, key.at(16 * pair, step));
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        mma_m16n8k16(scores[r][2 * pair], a[r], {b[0], b[1]});
        mma_m16n8k16(scores[r][2 * pair + 1], a[r], {b[2], b[3]});
      }
    }
  }
}

/// output += weights · values
template <int kDim>
__device__ inline void add_values(const Scores<kDim>& weights, const bfloat16* values,
                                  WarpQueries<kDim>& queries) {
  constexpr int kRowTiles = Tiling<kDim>::kRowTiles;
  const int lane = static_cast<int>(threadIdx.x & 31);
  const LaneRow<kDim> key(values, lane & 15, lane >> 4);
#pragma unroll
  for (int step = 0; step < Tiling<kDim>::kKeys / 16; ++step) {
    std::uint32_t a[kRowTiles][4];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* const two = &weights[r][2 * step + i / 2][i % 2 * 2];
        a[r][i] = pack(two[0], two[1]);
      }
    }
#pragma unroll
    for (int pair = 0; pair < kDim / 16; ++pair) {
      std::uint32_t b[4];
      ldmatrix_x4_trans(b, key.at(16 * step, pair));
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        mma_m16n8k16(queries.output[r][2 * pair], a[r], {b[0], b[1]});
        mma_m16n8k16(queries.output[r][2 * pair + 1], a[r], {b[2], b[3]});
      }
    }
  }
}

/// row, key: positions of the warp's first query and the tile's first key.
template <int kDim>
__device__ inline void mask(Scores<kDim>& scores, int row, int key, int window) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  const int column = lane % 4 * 2;
#pragma unroll
  for (int r = 0; r < Tiling<kDim>::kRowTiles; ++r) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int newest = row + 16 * r + lane / 4 + e / 2 * 8 - key;
      const int oldest = window > 0 ? newest - window + 1 : 0;
#pragma unroll
      for (int n = 0; n < Tiling<kDim>::kKeyTiles; ++n) {
        const int at = 8 * n + column + e % 2;
        if (at > newest || at < oldest) scores[r][n][e] = -INFINITY;
      }
    }
  }
}

/// scores = cap·tanh(scores·scale/cap) by the fast exponential, within 1e-6 of the cap.
template <int kDim>
__device__ inline void soft_cap(Scores<kDim>& scores, float scale, float cap) {
  const float twice = 2 * kLog2E * scale / cap;
#pragma unroll
  for (int r = 0; r < Tiling<kDim>::kRowTiles; ++r) {
#pragma unroll
    for (int n = 0; n < Tiling<kDim>::kKeyTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        scores[r][n][e] = cap - __fdividef(2 * cap, 1 + fast_exp2(scores[r][n][e] * twice));
      }
    }
  }
}

/// scores = scores·scale + bias of the key; key: position of the tile's first key. Keys behind the sample's
/// end are masked for all its queries.
template <int kDim>
__device__ inline void add_bias(Scores<kDim>& scores, float scale, const float* bias, int key, int length) {
  const int column = static_cast<int>(threadIdx.x & 31) % 4 * 2;
#pragma unroll
  for (int n = 0; n < Tiling<kDim>::kKeyTiles; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int at = key + 8 * n + column + e % 2;
      const float added = at < length ? bias[at] : 0.0f;
#pragma unroll
      for (int r = 0; r < Tiling<kDim>::kRowTiles; ++r) scores[r][n][e] = scores[r][n][e] * scale + added;
    }
  }
}

/// Writes the warp's rows to `staging` (its own part of the queries' tile, which nobody reads any more), and
/// from there to memory in whole chunks.
template <int kDim>
__device__ inline void store(const WarpQueries<kDim>& queries, bfloat16* staging, int row,
                             const Bf16Arguments& arguments, const AttentionWork& work) {
  using Tile = Tiling<kDim>;
  const int lane = static_cast<int>(threadIdx.x & 31);
#pragma unroll
  for (int r = 0; r < Tile::kRowTiles; ++r) {
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const float factor = 1.0f / row_sum(queries.sum[r][part]);
      const int at = row + 16 * r + 8 * part + lane / 4;
#pragma unroll
      for (int d = 0; d < kDim / 8; ++d) {
        const std::uint32_t two =
            pack(queries.output[r][d][2 * part] * factor, queries.output[r][d][2 * part + 1] * factor);
        *reinterpret_cast<std::uint32_t*>(staging + chunk_at<kDim>(at, d) + lane % 4 * 2) = two;
      }
    }
  }
  __syncwarp();
  bfloat16* const out = arguments.out + static_cast<std::int64_t>(work.head) * arguments.head_dim;
#pragma unroll
  for (int i = 0; i < Tile::kWarpRows * Tile::kChunks / 32; ++i) {
    const int index = lane + 32 * i;
    const int at = row + index / Tile::kChunks;
    const int chunk = index % Tile::kChunks;
    if (work.first_query + at < work.length && chunk * kChunk < arguments.head_dim) {
      const std::int64_t to = (work.sample_row + work.first_query + at) * arguments.out_stride;
      *reinterpret_cast<uint4*>(out + to + chunk * kChunk) =
          *reinterpret_cast<const uint4*>(staging + chunk_at<kDim>(at, chunk));
    }
  }
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, 2) attention_bf16_kernel(const Bf16Arguments arguments) {
  using Tile = Tiling<kDim>;
  const AttentionWork work = attention_work(arguments, blockIdx.x, Tile::kRows);
  if (work.first_query >= work.length) return;  // the whole block

  bfloat16* const queries = dynamic_shared<bfloat16>();
  const auto stage_of = [&](int tile) { return queries + Tile::kRows * kDim + tile % 2 * Tile::kStage; };
  const int head_dim = arguments.head_dim;
  const std::int64_t q_column = static_cast<std::int64_t>(work.head) * head_dim;
  const std::int64_t kv_column = static_cast<std::int64_t>(work.head / arguments.group) * head_dim;
  const TileCopy<kDim> q(arguments.q + work.sample_row * arguments.q_stride + q_column, arguments.q_stride,
                         work.length, head_dim);
  const TileCopy<kDim> k(arguments.k + work.sample_row * arguments.k_stride + kv_column, arguments.k_stride,
                         work.length, head_dim);
  const TileCopy<kDim> v(arguments.v + work.sample_row * arguments.v_stride + kv_column, arguments.v_stride,
                         work.length, head_dim);
  const auto fetch_keys = [&](int tile) {
    bfloat16* const to = stage_of(tile);
    k.template fetch<Tile::kKeys>(to, tile * Tile::kKeys);
    v.template fetch<Tile::kKeys>(to + Tile::kKeys * kDim, tile * Tile::kKeys);
    cp_async_commit();
  };

  const int row = static_cast<int>(threadIdx.x) / 32 * Tile::kWarpRows;           // of the tile
  const int position = work.first_query + row;                                    // of the warp's first query
  const int oldest = arguments.window > 0 ? position - arguments.window + 1 : 0;  // key that it sees
  const bool capped = arguments.softcap > 0;
  const float* const bias = key_bias_of(arguments, work.head);
  const float factor = (capped || bias != nullptr ? 1.0f : arguments.scale) * kLog2E;
  const KeyTiles tiles = key_tiles(work, Tile::kRows, Tile::kKeys, arguments.window);

  WarpQueries<kDim> own;
  own.clear();
  q.template fetch<Tile::kRows>(queries, work.first_query);
  fetch_keys(tiles.first);
  for (int tile = tiles.first; tile <= tiles.last; ++tile) {
    cp_async_wait<0>();
    __syncthreads();  // the tile is there for all warps, and all have left the one before
    if (tile < tiles.last) fetch_keys(tile + 1);

    // Warps whose queries see nothing of the tile only wait for the others.
    const int key = tile * Tile::kKeys;
    const int end = key + Tile::kKeys;
    if (position < work.length && key < position + Tile::kWarpRows && end > oldest) {
      const bfloat16* const stage = stage_of(tile);
      Scores<kDim> scores;
      score<kDim>(queries, row, stage, scores);
      if (capped) soft_cap<kDim>(scores, arguments.scale, arguments.softcap);
      if (bias != nullptr) {
        add_bias<kDim>(scores, capped ? 1.0f : arguments.scale, bias, key, work.length);
      }
      const bool all_see_all =
          end <= position + 1 && (arguments.window == 0 || key >= oldest + Tile::kWarpRows - 1);
      if (!all_see_all) mask<kDim>(scores, position, key, arguments.window);
      own.soften(scores, factor);
      add_values<kDim>(scores, stage + Tile::kKeys * kDim, own);
    }
  }
  store<kDim>(own, queries, row, arguments, work);
}

template <int kDim>
void launch_padded(const CudaContext& context, const Batch& batch, const Bf16Arguments& arguments) {
  using Tile = Tiling<kDim>;
  for_each_launch(batch, arguments, Tile::kRows, [&](const Bf16Arguments& part) {
    const dim3 blocks(static_cast<unsigned>(part.tiles) * static_cast<unsigned>(part.samples * part.heads));
    launch(context, attention_bf16_kernel<kDim>, blocks, dim3(kThreads), Tile::kSharedBytes, part);
  });
}

bool in_chunks(const Matrix& x) {
  return x.dtype == DType::bf16 && x.stride % kChunk == 0 && x.stride <= INT32_MAX &&
         reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0;
}

}  // namespace

bool attention_bf16_takes(const AttentionShape& shape, const Matrix& q, const Matrix& k, const Matrix& v,
                          const Matrix& out) {
  return shape.head_dim % kChunk == 0 && shape.head_dim <= 256 && in_chunks(q) && in_chunks(k) &&
         in_chunks(v) && in_chunks(out);
}

void attention_bf16(const CudaContext& context, const Batch& batch, const AttentionShape& shape,
                    const Matrix& q, const Matrix& k, const Matrix& v, const Matrix& out) {
  GPTQ_EXPECT(attention_bf16_takes(shape, q, k, v, out));
  const auto arguments = attention_arguments<bfloat16>(shape, q, k, v, out);
  if (shape.head_dim <= 32) return launch_padded<32>(context, batch, arguments);
  if (shape.head_dim <= 64) return launch_padded<64>(context, batch, arguments);
  if (shape.head_dim <= 96) return launch_padded<96>(context, batch, arguments);
  if (shape.head_dim <= 128) return launch_padded<128>(context, batch, arguments);
  if (shape.head_dim <= 192) return launch_padded<192>(context, batch, arguments);
  launch_padded<256>(context, batch, arguments);
}

}  // namespace gptq::cuda
