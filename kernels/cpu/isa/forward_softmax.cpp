#include "kernels/cpu/isa/forward_softmax.h"

#include "kernels/cpu/isa/vector_math.h"

namespace gptq::GPTQ_ISA {
namespace {

using index = std::int64_t;
constexpr float kLog2E = 1.44269504f;

/// The largest of n >= 0 values and `start`.
inline float largest(const float* x, index n, float start) {
  float top = start;
#pragma omp simd reduction(max : top)
  for (index i = 0; i < n; ++i) top = top < x[i] ? x[i] : top;
  return top;
}

inline float power(float x, const float*) {
  return exp2_of(x);
}
inline float power(float x, const uint16_t*) {
  return coarse_exp2_of(x);
}

/// Columns are handled in pieces of so many: no loop has a remainder.
constexpr index kPiece = 32;

template <typename T>
inline float weigh(const float* scores, float maximum, float factor, index pieces, T* weights) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (index i = 0; i < pieces * kPiece; ++i) {
    const float weight = power((scores[i] - maximum) * factor, weights);
    sum += weight;
    store_number(weights + i, weight);
  }
  return sum;
}

template <typename T>
inline void clear(T* x, index n) {
  for (index i = 0; i < n; ++i) x[i] = 0;
}

/// Masks what lies outside [first, last) within the piece that starts at column `start`.
inline void mask_piece(float* scores, index start, index first, index last) {
#pragma omp simd
  for (int i = 0; i < static_cast<int>(kPiece); ++i) {
    const bool seen = i >= static_cast<int>(first - start) && i < static_cast<int>(last - start);
    scores[start + i] = seen ? scores[start + i] : kLowestScore;
  }
}

/// Where a row's weights lie.
template <typename T>
struct WeightRow {
  T* start;
  index pitch;  // elements between two matrices of weights

  T* at(index column) const {
    return start + column / ScoreTile::kWeightColumns * pitch + column % ScoreTile::kWeightColumns;
  }
};

/// Calls body(column, count) for the runs of columns in [first, last) that lie in one matrix of weights.
template <typename Body>
inline void each_run(index first, index last, const Body& body) {
  constexpr index kRun = ScoreTile::kWeightColumns;
  while (first < last) {
    const index whole = first / kRun * kRun + kRun;
    const index end = whole < last ? whole : last;
    body(first, end - first);
    first = end;
  }
}

struct RowState {
  float* maximum;
  float* sum;
  float* output;
  index head_dim;

  void rise_to(float top, float factor) const {
    if (top == *maximum) return;
    const float shrink = exp2_of((*maximum - top) * factor);
#pragma omp simd
    for (index i = 0; i < head_dim; ++i) output[i] *= shrink;
    *sum *= shrink;
    *maximum = top;
  }
};

template <typename T>
inline void softmax_row(float* scores, index first, index last, index keys, float factor,
                        const RowState& state, const WeightRow<T>& weights) {
  const auto clear_run = [&](index column, index count) { clear(weights.at(column), count); };
  if (last <= first) return each_run(0, keys, clear_run);
  const index begin = first / kPiece * kPiece;
  const index end = (last + kPiece - 1) / kPiece * kPiece;
  each_run(0, begin, clear_run);
  each_run(end, keys, clear_run);
  if (begin < first) mask_piece(scores, begin, first, last);
  if (last < end) mask_piece(scores, end - kPiece, first, last);

  const float top = largest(scores + begin, (end - begin) / kPiece * kPiece, *state.maximum);
  state.rise_to(top, factor);
  each_run(begin, end, [&](index column, index count) {
    *state.sum += weigh(scores + column, top, factor, count / kPiece, weights.at(column));
  });
}

template <typename T>
void step(const ScoreTile& tile, float* maximum, float* sum, float* output, index head_dim, T* weights) {
  const float factor = tile.scale * kLog2E;
  const index rows = tile.heads * tile.queries;
  for (index row = 0; row < rows; ++row) {
    const index position = tile.first_query + row % tile.queries;
    const index end = position + 1 - tile.first_key;
    const index begin = tile.window > 0 ? end - tile.window : 0;
    const index last = end < 0 ? 0 : end < tile.keys ? end : tile.keys;
    const index first = begin < 0 ? 0 : begin < tile.keys ? begin : tile.keys;
    const WeightRow<T> own = {weights + row * ScoreTile::kWeightColumns, rows * ScoreTile::kWeightColumns};
    softmax_row(tile.scores + row * tile.keys, first, last, tile.keys, factor,
                RowState{maximum + row, sum + row, output + row * head_dim, head_dim}, own);
  }
}

void soft_cap(float* x, float scale, float cap, index n) {
  const float inner = scale / cap;
#pragma omp simd
  for (index i = 0; i < n; ++i) x[i] = cap * tanh_of(x[i] * inner);
}

void add_bias(float* x, float scale, const float* bias, index n) {
#pragma omp simd
  for (index i = 0; i < n; ++i) x[i] = x[i] * scale + bias[i];
}

void log_sum_step(const float* logits, index n, float* maximum, double* sum) {
  const float top = largest(logits, n, *maximum);
  float part = 0;
#pragma omp simd reduction(+ : part)
  for (index i = 0; i < n; ++i) part += exp_of(logits[i] - top);
  *sum = *sum * static_cast<double>(exp_of(*maximum - top)) + static_cast<double>(part);
  *maximum = top;
}

}  // namespace

extern const SoftmaxTable softmax_table;
const SoftmaxTable softmax_table = {step<float>, step<uint16_t>, soft_cap, add_bias, log_sum_step};

}  // namespace gptq::GPTQ_ISA
