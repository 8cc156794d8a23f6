#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa/forward_rows.h"
#include "kernels/cpu/isa/forward_softmax.h"
#include "kernels/cpu/packed.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

/// Attention over tiles of kTile queries and kTile keys with a running softmax. The query heads that share a
/// key head are stacked in one product. Every product has the same shape whatever the sample's length: the
/// last tile is filled up with zeros.
namespace gptq {
namespace {

constexpr std::int64_t kTile = ScoreTile::kWeightColumns;
constexpr std::int64_t kSpanTiles =
    2;  // key tiles per step of the softmax: its cost is by row as much as by score
constexpr std::int64_t kMostStackedHeads = 4;

std::int64_t tiles_of(std::int64_t length) {
  return (length + kTile - 1) / kTile;
}

/// How the heads of one model are cut into tasks.
struct Heads {
  std::int64_t kv_heads;
  std::int64_t stack;   ///< query heads in one product, all with the same key head
  std::int64_t stacks;  ///< products that cover all query heads
  std::int64_t dim;
  DType dtype;

  explicit Heads(const AttentionShape& shape, DType type)
      : kv_heads(shape.kv_heads), stack(1), stacks(0), dim(shape.head_dim), dtype(type) {
    const std::int64_t group = shape.heads / shape.kv_heads;
    for (std::int64_t s = 1; s <= kMostStackedHeads; ++s) {
      if (group % s == 0) stack = s;
    }
    stacks = shape.heads / stack;
  }
  std::int64_t kv_head(std::int64_t stack_index) const { return stack_index / (stacks / kv_heads); }
  std::size_t bytes(std::int64_t rows) const { return static_cast<std::size_t>(rows * dim) * size_of(dtype); }
};

/// Copies the features of one head from `count` rows of x to a dense (kTile, head_dim) tile; the rest is
/// zero.
void copy_head(const Matrix& x, std::int64_t first_row, std::int64_t count, std::int64_t head,
               const Heads& heads, std::byte* tile) {
  const std::size_t bytes = heads.bytes(1);
  const std::size_t pitch = static_cast<std::size_t>(x.stride) * size_of(x.dtype);
  const std::byte* source = static_cast<const std::byte*>(x.data) +
                            static_cast<std::size_t>(first_row) * pitch +
                            static_cast<std::size_t>(head) * bytes;
  for (std::int64_t r = 0; r < count; ++r, source += pitch) std::memcpy(tile + r * bytes, source, bytes);
  std::memset(tile + heads.bytes(count), 0, heads.bytes(kTile - count));
}

/// Keys and values of a batch, cut into tiles that the products can use. The tiles of one sample and head
/// follow each other, so that a product may take the keys of several.
class KeyValueTiles {
 public:
  KeyValueTiles(const Batch& batch, const Heads& heads, const Matrix& k, const Matrix& v, int threads)
      : heads_(heads), key_bytes_(heads.bytes(kTile)) {
    std::vector<Source> sources;
    for (std::int64_t s = 0; s < batch.samples(); ++s) {
      first_.push_back(static_cast<std::int64_t>(sources.size()));
      for (std::int64_t head = 0; head < heads.kv_heads; ++head) {
        for (std::int64_t row = batch.offsets[s]; row < batch.offsets[s + 1]; row += kTile) {
          sources.push_back({row, std::min(kTile, batch.offsets[s + 1] - row), head});
        }
      }
      tiles_.push_back(tiles_of(batch.offsets[s + 1] - batch.offsets[s]));
    }
    allocate(static_cast<std::int64_t>(sources.size()));
    parallel_for(threads, static_cast<std::int64_t>(sources.size()), [&](std::int64_t i) {
      const Source& source = sources[static_cast<std::size_t>(i)];
      copy_head(k, source.row, source.count, source.head, heads,
                keys_ + static_cast<std::size_t>(i) * key_bytes_);
      auto* const dense = scratch<std::byte>(Scratch::tile_in, static_cast<std::int64_t>(key_bytes_));
      copy_head(v, source.row, source.count, source.head, heads, dense);
      values_[static_cast<std::size_t>(i)].fill(dense, false);
    });
  }

  /// (kTile, head_dim), and the following tiles' after it.
  const void* keys(std::int64_t sample, std::int64_t tile, std::int64_t kv_head) const {
    return keys_ + index(sample, tile, kv_head) * key_bytes_;
  }
  const PackedMatrix& values(std::int64_t sample, std::int64_t tile, std::int64_t kv_head) const {
    return values_[index(sample, tile, kv_head)];
  }

 private:
  struct Source {
    std::int64_t row, count, head;
  };

  /// Memory of the calling thread's scratch, used by all threads until this call of attention ends.
  void allocate(std::int64_t count) {
    const std::size_t aligned = (PackedMatrix::bytes(kTile, heads_.dim, heads_.dtype) + 63) / 64 * 64;
    keys_ = scratch<std::byte>(Scratch::shared_keys, count * static_cast<std::int64_t>(key_bytes_));
    std::byte* values =
        scratch<std::byte>(Scratch::shared_values, count * static_cast<std::int64_t>(aligned));
    values_.reserve(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i, values += aligned) {
      values_.emplace_back(kTile, heads_.dim, heads_.dtype, values);
    }
  }

  std::size_t index(std::int64_t sample, std::int64_t tile, std::int64_t kv_head) const {
    const auto s = static_cast<std::size_t>(sample);
    return static_cast<std::size_t>(first_[s] + kv_head * tiles_[s] + tile);
  }

  Heads heads_;
  std::size_t key_bytes_;
  std::vector<std::int64_t> first_;  // per sample: its first tile
  std::vector<std::int64_t> tiles_;  // per sample: tiles of each head
  std::byte* keys_ = nullptr;
  std::vector<PackedMatrix> values_;
};

struct Task {
  std::int64_t sample, tile, stack;
};

/// One tile of queries, for one stack of heads, against all keys they see.
class QueryTile {
 public:
  QueryTile(const Batch& batch, const AttentionShape& shape, const Heads& heads, const Task& task)
      : shape_(shape), heads_(heads), task_(task), rows_(heads.stack * kTile) {
    const std::int64_t length = batch.offsets[task.sample + 1] - batch.offsets[task.sample];
    first_row_ = batch.offsets[task.sample] + task.tile * kTile;
    count_ = std::min(kTile, length - task.tile * kTile);
    output_ = scratch<float>(Scratch::partial, rows_ * heads.dim);
    maximum_ = scratch<float>(Scratch::running, 2 * rows_);
    sum_ = maximum_ + rows_;
    std::fill_n(output_, rows_ * heads.dim, 0.0f);
    std::fill_n(maximum_, rows_, kLowestScore);
    std::fill_n(sum_, rows_, 0.0f);
  }

  void load(const Matrix& q) {
    queries_ = scratch<std::byte>(Scratch::head_rows, static_cast<std::int64_t>(heads_.bytes(rows_)));
    for (std::int64_t h = 0; h < heads_.stack; ++h) {
      copy_head(q, first_row_, count_, task_.stack * heads_.stack + h, heads_,
                queries_ + heads_.bytes(h * kTile));
    }
  }

  void attend(const KeyValueTiles& tiles) {
    const std::int64_t first_query = task_.tile * kTile;
    const std::int64_t first_key =
        shape_.window > 0 ? std::max<std::int64_t>(0, first_query - shape_.window + 1) : 0;
    const std::int64_t kv_head = heads_.kv_head(task_.stack);
    for (std::int64_t tile = first_key / kTile; tile <= task_.tile; tile += kSpanTiles) {
      add_keys(tiles, tile, std::min(kSpanTiles, task_.tile + 1 - tile), kv_head);
    }
  }

  void store(const Matrix& out) const {
    for (std::int64_t h = 0; h < heads_.stack; ++h) {
      const std::int64_t column = (task_.stack * heads_.stack + h) * heads_.dim;
      for (std::int64_t r = 0; r < count_; ++r) {
        const std::int64_t row = h * kTile + r;
        const float* const from = output_ + row * heads_.dim;
        const float factor = 1.0f / sum_[row];
        if (heads_.dtype == DType::f32) {
          row_table().scale_f32(from, factor, out.row<float>(first_row_ + r) + column, heads_.dim);
        } else {
          row_table().scale_bf16(from, factor, out.row<std::uint16_t>(first_row_ + r) + column, heads_.dim);
        }
      }
    }
  }

 private:
  /// The keys and values of `count` tiles.
  void add_keys(const KeyValueTiles& tiles, std::int64_t first, std::int64_t count, std::int64_t kv_head) {
    const std::int64_t keys = count * kTile;
    float* const scores = scratch<float>(Scratch::scores, rows_ * keys);
    const GemmShape product{.m = rows_,
                            .n = keys,
                            .k = heads_.dim,
                            .in = heads_.dtype,
                            .out = DType::f32,
                            .transpose_a = false,
                            .transpose_b = true,
                            .lda = heads_.dim,
                            .ldb = heads_.dim,
                            .ldc = keys,
                            .accumulate = false};
    gemm(product, queries_, tiles.keys(task_.sample, first, kv_head), scores);
    auto* const weights =
        scratch<std::byte>(Scratch::weights, rows_ * keys * static_cast<std::int64_t>(size_of(heads_.dtype)));
    soften(scores, keys, first * kTile, weights);
    const std::size_t pitch = static_cast<std::size_t>(rows_ * kTile) * size_of(heads_.dtype);
    for (std::int64_t t = 0; t < count; ++t) {
      packed_product(rows_, weights + static_cast<std::size_t>(t) * pitch,
                     tiles.values(task_.sample, first + t, kv_head), {}, output_, DType::f32, true);
    }
  }

  /// Scores of keys behind the sample's end stay as they are: nobody sees them.
  void add_key_bias(float* scores, std::int64_t keys, std::int64_t first_key, float scale) const {
    const std::int64_t known = std::min(keys, shape_.key_bias_positions - first_key);
    for (std::int64_t row = 0; row < rows_; ++row) {
      const std::int64_t head = task_.stack * heads_.stack + row / kTile;
      const float* const bias = shape_.key_bias + head * shape_.key_bias_positions + first_key;
      softmax_table().add_bias(scores + row * keys, scale, bias, known);
    }
  }

  void soften(float* scores, std::int64_t keys, std::int64_t first_key, void* weights) {
    ScoreTile tile{scores,    heads_.stack,  kTile,       keys, task_.tile * kTile,
                   first_key, shape_.window, shape_.scale};
    if (shape_.logit_softcap > 0) {
      softmax_table().soft_cap(scores, shape_.scale, shape_.logit_softcap, rows_ * keys);
      tile.scale = 1;
    }
    if (shape_.key_bias != nullptr) {
      add_key_bias(scores, keys, first_key, tile.scale);
      tile.scale = 1;
    }
    if (heads_.dtype == DType::f32) {
      softmax_table().step_f32(tile, maximum_, sum_, output_, heads_.dim, static_cast<float*>(weights));
    } else {
      softmax_table().step_bf16(tile, maximum_, sum_, output_, heads_.dim,
                                static_cast<std::uint16_t*>(weights));
    }
  }

  const AttentionShape& shape_;
  const Heads& heads_;
  Task task_;
  std::int64_t rows_;           // stacked heads * kTile
  std::int64_t first_row_ = 0;  // of the batch
  std::int64_t count_ = 0;      // real queries of the tile
  std::byte* queries_ = nullptr;
  float* output_ = nullptr;
  float* maximum_ = nullptr;
  float* sum_ = nullptr;
};

/// Longest work first, so that threads end together.
std::vector<Task> tasks_of(const Batch& batch, const Heads& heads) {
  std::vector<Task> tasks;
  for (std::int64_t s = 0; s < batch.samples(); ++s) {
    for (std::int64_t tile = 0; tile < tiles_of(batch.offsets[s + 1] - batch.offsets[s]); ++tile) {
      for (std::int64_t stack = 0; stack < heads.stacks; ++stack) tasks.push_back({s, tile, stack});
    }
  }
  std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) { return a.tile > b.tile; });
  return tasks;
}

void check(const Batch& batch, const AttentionShape& shape, const Matrix& q, const Matrix& k, const Matrix& v,
           const Matrix& out) {
  GPTQ_EXPECT(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0 && shape.head_dim > 0 &&
              shape.scale > 0);
  GPTQ_EXPECT(q.dtype == DType::f32 || q.dtype == DType::bf16);
  for (const Matrix* m : {&q, &k, &v, &out}) GPTQ_EXPECT(m->dtype == q.dtype && m->rows == batch.rows());
  GPTQ_EXPECT(q.cols == shape.heads * shape.head_dim && out.cols == q.cols);
  GPTQ_EXPECT(k.cols == shape.kv_heads * shape.head_dim && v.cols == k.cols);
  for (std::int64_t s = 0; shape.key_bias != nullptr && s < batch.samples(); ++s)
    GPTQ_EXPECT(batch.offsets[s + 1] - batch.offsets[s] <= shape.key_bias_positions);
}

}  // namespace

void CpuKernels::attention(const Batch& batch, const AttentionShape& shape, const Matrix& q, const Matrix& k,
                           const Matrix& v, const Matrix& out) {
  check(batch, shape, q, k, v, out);
  const Heads heads(shape, q.dtype);
  const KeyValueTiles tiles(batch, heads, k, v, threads_);
  const std::vector<Task> tasks = tasks_of(batch, heads);
  parallel_for(threads_, static_cast<std::int64_t>(tasks.size()), [&](std::int64_t t) {
    QueryTile tile(batch, shape, heads, tasks[static_cast<std::size_t>(t)]);
    tile.load(q);
    tile.attend(tiles);
    tile.store(out);
  });
}

}  // namespace gptq
