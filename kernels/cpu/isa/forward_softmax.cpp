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

template <typename T>
inline float weigh(const float* scores, float maximum, float factor, index n, T* weights) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (index i = 0; i < n; ++i) {
    const float weight = exp2_of((scores[i] - maximum) * factor);
    sum += weight;
    store(weights + i, weight);
  }
  return sum;
}

template <typename T>
inline void clear(T* x, index n) {
  for (index i = 0; i < n; ++i) x[i] = 0;
}

template <typename T>
inline void softmax_row(const float* scores, index first, index last, index keys, float factor,
                        float* maximum, float* sum, float* output, index head_dim, T* weights) {
  if (last <= first) return clear(weights, keys);
  clear(weights, first);
  clear(weights + last, keys - last);
  const float top = largest(scores + first, last - first, *maximum);
  const float part = weigh(scores + first, top, factor, last - first, weights + first);
  if (top != *maximum) {
    const float shrink = exp2_of((*maximum - top) * factor);
#pragma omp simd
    for (index i = 0; i < head_dim; ++i) output[i] *= shrink;
    *sum *= shrink;
    *maximum = top;
  }
  *sum += part;
}

template <typename T>
void step(const ScoreTile& tile, float* maximum, float* sum, float* output, index head_dim, T* weights) {
  const float factor = tile.scale * kLog2E;
  for (index row = 0; row < tile.heads * tile.queries; ++row) {
    const index position = tile.first_query + row % tile.queries;
    const index end = position + 1 - tile.first_key;
    const index begin = tile.window > 0 ? end - tile.window : 0;
    const index last = end < 0 ? 0 : end < tile.keys ? end : tile.keys;
    const index first = begin < 0 ? 0 : begin < tile.keys ? begin : tile.keys;
    softmax_row(tile.scores + row * tile.keys, first, last, tile.keys, factor, maximum + row, sum + row,
                output + row * head_dim, head_dim, weights + row * tile.keys);
  }
}

void soft_cap(float* x, float scale, float cap, index n) {
  const float inner = scale / cap;
#pragma omp simd
  for (index i = 0; i < n; ++i) x[i] = cap * tanh_of(x[i] * inner);
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
const SoftmaxTable softmax_table = {step<float>, step<uint16_t>, soft_cap, log_sum_step};

}  // namespace gptq::GPTQ_ISA
