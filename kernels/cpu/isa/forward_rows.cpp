#include "kernels/cpu/isa/forward_rows.h"

#include "kernels/cpu/isa/vector_math.h"

namespace gptq::GPTQ_ISA {
namespace {

using index = std::int64_t;

template <typename In, typename Out>
void norm(const In* x, const float* weight, float eps, index n, Out* y) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (index i = 0; i < n; ++i) sum += load(x + i) * load(x + i);
  const float factor = 1.0f / __builtin_sqrtf(sum / static_cast<float>(n) + eps);
#pragma omp simd
  for (index i = 0; i < n; ++i) store(y + i, load(x + i) * factor * weight[i]);
}

template <typename In, typename Out>
void center(const In* x, const float* weight, const float* bias, float eps, index n, Out* y) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (index i = 0; i < n; ++i) sum += load(x + i);
  const float mean = sum / static_cast<float>(n);
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (index i = 0; i < n; ++i) {
    const float difference = load(x + i) - mean;
    squares += difference * difference;
  }
  const float factor = 1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps);
#pragma omp simd
  for (index i = 0; i < n; ++i) store(y + i, (load(x + i) - mean) * factor * weight[i] + bias[i]);
}

template <typename T>
void rotate(T* x, const float* cos, const float* sin, index half) {
  T* const y = x + half;
#pragma omp simd
  for (index i = 0; i < half; ++i) {
    const float a = load(x + i);
    const float b = load(y + i);
    store(x + i, a * cos[i] - b * sin[i]);
    store(y + i, b * cos[i] + a * sin[i]);
  }
}

[[gnu::always_inline]] inline float silu(float x) {
  return x / (1.0f + exp_of(-x));
}
[[gnu::always_inline]] inline float gelu_tanh(float x) {
  return 0.5f * x * (1.0f + tanh_of(0.7978845608f * (x + 0.044715f * x * x * x)));
}
[[gnu::always_inline]] inline float gelu(float x) {
  return 0.5f * x * (1.0f + erf_of(0.70710678f * x));
}
[[gnu::always_inline]] inline float relu(float x) {
  return x < 0 ? 0.0f : x;
}

template <typename T, typename Function>
inline void gate_loop(const T* gate, const T* up, T* out, index n, Function function) {
#pragma omp simd
  for (index i = 0; i < n; ++i) store(out + i, function(load(gate + i)) * load(up + i));
}

template <typename T>
void gate(int activation, const T* gates, const T* up, T* out, index n) {
  switch (activation) {
    case 0:
      return gate_loop(gates, up, out, n, [](float x) { return silu(x); });
    case 1:
      return gate_loop(gates, up, out, n, [](float x) { return gelu_tanh(x); });
    case 2:
      return gate_loop(gates, up, out, n, [](float x) { return gelu(x); });
    default:
      return gate_loop(gates, up, out, n, [](float x) { return relu(x); });
  }
}

template <typename T, typename Function>
inline void activate_loop(const T* x, T* y, index n, Function function) {
#pragma omp simd
  for (index i = 0; i < n; ++i) store(y + i, function(load(x + i)));
}

template <typename T>
void activate(int activation, const T* x, T* y, index n) {
  switch (activation) {
    case 0:
      return activate_loop(x, y, n, [](float v) { return silu(v); });
    case 1:
      return activate_loop(x, y, n, [](float v) { return gelu_tanh(v); });
    case 2:
      return activate_loop(x, y, n, [](float v) { return gelu(v); });
    default:
      return activate_loop(x, y, n, [](float v) { return relu(v); });
  }
}

template <typename T>
uint32_t top_bits(const T* x, index n) {
  uint32_t top = 0;
#pragma omp simd reduction(max : top)
  for (index i = 0; i < n; ++i) {
    const uint32_t bits = bits_of(load(x + i)) & 0x7fffffffu;
    top = top < bits ? bits : top;
  }
  return top;
}

template <typename In, typename Out>
void copy(const In* x, Out* y, index n) {
#pragma omp simd
  for (index i = 0; i < n; ++i) store(y + i, load(x + i));
}

template <typename T>
void add(const T* x, T* y, index n) {
#pragma omp simd
  for (index i = 0; i < n; ++i) store(y + i, load(y + i) + load(x + i));
}

template <typename In, typename Out>
void scale(const In* x, float by, Out* y, index n) {
#pragma omp simd
  for (index i = 0; i < n; ++i) store(y + i, load(x + i) * by);
}

void add_scaled(const float* x, float by, float* y, index n) {
#pragma omp simd
  for (index i = 0; i < n; ++i) y[i] += x[i] * by;
}

float sum_of_squares(const float* x, index n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (index i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

void add_squared_error(const float* a, const float* b, index n, double* error, double* norm) {
  double of_difference = 0, of_a = 0;
#pragma omp simd reduction(+ : of_difference, of_a)
  for (index i = 0; i < n; ++i) {
    const double difference = static_cast<double>(a[i]) - b[i];
    of_difference += difference * difference;
    of_a += static_cast<double>(a[i]) * a[i];
  }
  *error += of_difference;
  *norm += of_a;
}

}  // namespace

extern const RowTable row_table;
const RowTable row_table = {norm<float, float>,
                            norm<float, uint16_t>,
                            norm<uint16_t, uint16_t>,
                            center<float, float>,
                            center<float, uint16_t>,
                            center<uint16_t, uint16_t>,
                            rotate<float>,
                            rotate<uint16_t>,
                            gate<float>,
                            gate<uint16_t>,
                            activate<float>,
                            activate<uint16_t>,
                            top_bits<float>,
                            top_bits<uint16_t>,
                            copy<float, uint16_t>,
                            copy<uint16_t, float>,
                            add<float>,
                            add<uint16_t>,
                            scale<float, float>,
                            scale<float, uint16_t>,
                            scale<uint16_t, uint16_t>,
                            add_scaled,
                            sum_of_squares,
                            add_squared_error};

}  // namespace gptq::GPTQ_ISA
