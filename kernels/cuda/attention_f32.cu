#include "kernels/cuda/attention.cuh"

/// Attention without tensor cores, for f32 and for the shapes that attention_bf16 does not take. A block
/// holds 64 queries of one head and up to 128 columns of their output; wider heads take several blocks, each
/// of which computes the scores anew. Both products are register tiles: thread (y, x) of 16×16 holds queries
/// 4y..4y+3 and keys x, x+16, x+32, x+48 of the scores, and the same queries and columns 4x..4x+3 and
/// 64+4x..64+4x+3 of the output. Sums run in the order of keys and columns.
namespace gptq::cuda {
namespace {

constexpr int kSide = 16;
constexpr int kThreads = kSide * kSide;
constexpr int kTile = 64;         // queries, and keys
constexpr int kPerThread = 4;     // queries, and keys, of a thread
constexpr int kPiece = 32;        // columns of q and k, or rows of v, in shared memory at a time
constexpr int kOutColumns = 128;  // of a block
constexpr int kColumnGroups = 2;  // of 4 output columns, of a thread
static_assert(kColumnGroups * 4 * kSide == kOutColumns && kPerThread * kSide == kTile);

/// Rows are four floats longer than needed: still aligned to 16 bytes, and 8 neighbouring rows' float4 of one
/// column lie in different banks.
struct SharedTiles {
  float q[kTile][kPiece + 4];
  float k[kTile][kPiece + 4];
  float weights[kTile][kTile + 4];
  float v[kPiece][kOutColumns];
};

/// The position of a thread in its block, and what it accumulates.
struct ThreadTile {
  int x = static_cast<int>(threadIdx.x) % kSide;
  int y = static_cast<int>(threadIdx.x) / kSide;
  float output[kPerThread][4 * kColumnGroups] = {};
  float maximum[kPerThread] = {kLowestScore, kLowestScore, kLowestScore, kLowestScore};
  float sum[kPerThread] = {};
};

__device__ inline float dot(float4 a, float4 b, float start) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, start))));
}
__device__ inline float component(float4 x, int i) {
  return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

/// Copies `rows` rows of kWidth columns from `first_row` and `first_column` on; zeros beyond the limits.
template <int kWidth, int kPitch, typename T>
__device__ inline void load(float (*tile)[kPitch], int rows, const T* source, std::int64_t stride,
                            int first_row, int row_limit, int first_column, int column_limit) {
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < rows * kWidth; i += kThreads) {
    const int row = first_row + i / kWidth;
    const int column = first_column + i % kWidth;
    const bool inside = row < row_limit && column < column_limit;
    tile[i / kWidth][i % kWidth] = inside ? to_float(source[row * stride + column]) : 0.0f;
  }
}

/// scores[i][j] of query 4y + i and key x + 16j. All threads call it; the tiles q and k are free afterwards
/// for threads that have passed another barrier.
template <typename T>
__device__ inline void score(const T* q, std::int64_t q_stride, int first_query, const T* k,
                             std::int64_t k_stride, int first_key, int length, int head_dim,
                             SharedTiles& shared, const ThreadTile& own,
                             float (&scores)[kPerThread][kPerThread]) {
#pragma unroll
  for (auto& row : scores) {
#pragma unroll
    for (float& x : row) x = 0;
  }
  for (int column = 0; column < head_dim; column += kPiece) {
    __syncthreads();  // all have left the tiles
    load<kPiece>(shared.q, kTile, q, q_stride, first_query, length, column, head_dim);
    load<kPiece>(shared.k, kTile, k, k_stride, first_key, length, column, head_dim);
    __syncthreads();
#pragma unroll 1
    for (int c = 0; c < kPiece; c += 4) {
      float4 queries[kPerThread];
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
        queries[i] = *reinterpret_cast<const float4*>(&shared.q[kPerThread * own.y + i][c]);
      }
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) {
        const float4 key = *reinterpret_cast<const float4*>(&shared.k[own.x + kSide * j][c]);
#pragma unroll
        for (int i = 0; i < kPerThread; ++i) scores[i][j] = dot(queries[i], key, scores[i][j]);
      }
    }
  }
}

/// The largest, or the sum, over the 16 threads that hold a query.
__device__ inline float row_max(float x) {
  for (int offset = kSide / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}
__device__ inline float row_sum(float x) {
  for (int offset = kSide / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

/// Caps, biases and masks the scores and turns them into weights, in shared memory. A key that some query
/// sees lies within the sample, and so within the bias.
template <typename T>
__device__ inline void soften(float (&scores)[kPerThread][kPerThread], const AttentionWork& work,
                              int first_key, const AttentionArguments<T>& arguments, SharedTiles& shared,
                              ThreadTile& own) {
  const int first_query = work.first_query;
  const bool capped = arguments.softcap > 0;
  const float* const bias = key_bias_of(arguments, work.head);
  const bool scaled = capped || bias != nullptr;
  const float factor = (scaled ? 1.0f : arguments.scale) * kLog2E;
  const float inner = capped ? arguments.scale / arguments.softcap : 0.0f;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int newest = first_query + kPerThread * own.y + i;
    const int oldest = arguments.window > 0 ? newest - arguments.window + 1 : 0;
    float top = own.maximum[i];
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const int key = first_key + own.x + kSide * j;
      if (capped) scores[i][j] = arguments.softcap * tanhf(scores[i][j] * inner);
      if (bias != nullptr && key < work.length)
        scores[i][j] = (capped ? scores[i][j] : scores[i][j] * arguments.scale) + bias[key];
      if (key > newest || key < oldest) scores[i][j] = -INFINITY;
      top = fmaxf(top, scores[i][j]);
    }
    top = row_max(top);
    const float shrink = exp2f((own.maximum[i] - top) * factor);
    own.maximum[i] = top;
    float added = 0;
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const float weight = exp2f((scores[i][j] - top) * factor);
      added += weight;
      shared.weights[kPerThread * own.y + i][own.x + kSide * j] = weight;
    }
    own.sum[i] = own.sum[i] * shrink + added;
#pragma unroll
    for (float& x : own.output[i]) x *= shrink;
  }
}

/// output += weights · v. All threads call it.
template <typename T>
__device__ inline void add_values(const T* v, std::int64_t v_stride, int first_key, int length,
                                  int first_column, int head_dim, SharedTiles& shared, ThreadTile& own) {
  for (int piece = 0; piece < kTile; piece += kPiece) {
    __syncthreads();  // the weights are there; all have left the last values
    load<kOutColumns>(shared.v, kPiece, v, v_stride, first_key + piece, length, first_column, head_dim);
    __syncthreads();
#pragma unroll 2
    for (int key = 0; key < kPiece; key += 4) {
      float4 weights[kPerThread];
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
        weights[i] = *reinterpret_cast<const float4*>(&shared.weights[kPerThread * own.y + i][piece + key]);
      }
#pragma unroll
      for (int step = 0; step < 4; ++step) {
#pragma unroll
        for (int group = 0; group < kColumnGroups; ++group) {
          const float4 value =
              *reinterpret_cast<const float4*>(&shared.v[key + step][4 * kSide * group + 4 * own.x]);
#pragma unroll
          for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
              float& sum = own.output[i][4 * group + c];
              sum = fmaf(component(weights[i], step), component(value, c), sum);
            }
          }
        }
      }
    }
  }
}

template <typename T>
__device__ inline void store(const ThreadTile& own, T* out, std::int64_t stride, const AttentionWork& work,
                             int first_column, int head_dim) {
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const float factor = 1.0f / row_sum(own.sum[i]);
    const int query = work.first_query + kPerThread * own.y + i;
#pragma unroll
    for (int c = 0; c < 4 * kColumnGroups; ++c) {
      const int column = first_column + 4 * kSide * (c / 4) + 4 * own.x + c % 4;
      if (query < work.length && column < head_dim) {
        out[query * stride + column] = from_float<T>(own.output[i][c] * factor);
      }
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 2) attention_f32_kernel(const AttentionArguments<T> arguments) {
  const AttentionWork work = attention_work(arguments, blockIdx.x, kTile);
  if (work.first_query >= work.length) return;  // the whole block

  SharedTiles& shared = *dynamic_shared<SharedTiles>();
  const int head_dim = arguments.head_dim;
  const int first_column = static_cast<int>(blockIdx.y) * kOutColumns;
  const std::int64_t q_column = static_cast<std::int64_t>(work.head) * head_dim;
  const std::int64_t kv_column = static_cast<std::int64_t>(work.head / arguments.group) * head_dim;
  const T* const q = arguments.q + work.sample_row * arguments.q_stride + q_column;
  const T* const k = arguments.k + work.sample_row * arguments.k_stride + kv_column;
  const T* const v = arguments.v + work.sample_row * arguments.v_stride + kv_column;

  ThreadTile own;
  const KeyTiles tiles = key_tiles(work, kTile, kTile, arguments.window);
  for (int tile = tiles.first; tile <= tiles.last; ++tile) {
    float scores[kPerThread][kPerThread];
    score(q, arguments.q_stride, work.first_query, k, arguments.k_stride, tile * kTile, work.length, head_dim,
          shared, own, scores);
    soften(scores, work, tile * kTile, arguments, shared, own);
    add_values(v, arguments.v_stride, tile * kTile, work.length, first_column, head_dim, shared, own);
  }
  store(own, arguments.out + work.sample_row * arguments.out_stride + q_column, arguments.out_stride, work,
        first_column, head_dim);
}

}  // namespace

void attention_f32(const CudaContext& context, const Batch& batch, const AttentionShape& shape,
                   const Matrix& q, const Matrix& k, const Matrix& v, const Matrix& out) {
  with_compute_type(q.dtype, [&](auto element) {
    using T = decltype(element);
    const auto arguments = attention_arguments<T>(shape, q, k, v, out);
    for_each_launch(batch, arguments, kTile, [&](const AttentionArguments<T>& part) {
      const dim3 blocks(static_cast<unsigned>(part.tiles) * static_cast<unsigned>(part.samples * part.heads),
                        blocks_for(shape.head_dim, kOutColumns));
      launch(context, attention_f32_kernel<T>, blocks, dim3(kThreads), sizeof(SharedTiles), part);
    });
  });
}

}  // namespace gptq::cuda
