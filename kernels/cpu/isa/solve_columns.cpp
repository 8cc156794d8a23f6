#include "kernels/cpu/isa/solve_parts.h"
#include "kernels/cpu/isa/solve_vector.h"

namespace gptq::GPTQ_ISA {
namespace {

/// v -= e[from, to) · U[from, to)_j, with row j of the transposed U.
inline void subtract_errors(const float* e, const float* inverse_row, long from, long to, Vector* v) {
  for (long i = from; i < to; ++i) {
    const Vector factor = broadcast(-inverse_row[i]);
    for (long k = 0; k < kVectors; ++k)
      v[k] = multiply_add(load_vector(e + i * kSolveRows + k * kLanes), factor, v[k]);
  }
}

/// Four columns at once, where all their errors are known beforehand.
void subtract_from_four(float* v, const float* e, const float* inverse, long column, long from, long to) {
  constexpr long kWide = kLanes == 16 ? 4 : 2;
  for (long part = 0; part < kVectors; part += kWide) {
    Vector sum[4][kWide];
    for (long j = 0; j < 4; ++j)
      for (long k = 0; k < kWide; ++k)
        sum[j][k] = load_vector(v + (column + j) * kSolveRows + (part + k) * kLanes);
    for (long i = from; i < to; ++i) {
      Vector error[kWide];
      for (long k = 0; k < kWide; ++k) error[k] = load_vector(e + i * kSolveRows + (part + k) * kLanes);
      for (long j = 0; j < 4; ++j) {
        const Vector factor = broadcast(-inverse[(column + j) * kSolveBatch + i]);
        for (long k = 0; k < kWide; ++k) sum[j][k] = multiply_add(error[k], factor, sum[j][k]);
      }
    }
    for (long j = 0; j < 4; ++j)
      for (long k = 0; k < kWide; ++k)
        store_vector(v + (column + j) * kSolveRows + (part + k) * kLanes, sum[j][k]);
  }
}

}  // namespace

void propagate(float* v, const float* e, const float* inverse, long first, long last, long from, long to) {
  long column = first;
  for (; column + 4 <= last; column += 4) subtract_from_four(v, e, inverse, column, from, to);
  for (; column < last; ++column) {
    Vector value[kVectors];
    for (long k = 0; k < kVectors; ++k) value[k] = load_vector(v + column * kSolveRows + k * kLanes);
    subtract_errors(e, inverse + column * kSolveBatch, from, to, value);
    for (long k = 0; k < kVectors; ++k) store_vector(v + column * kSolveRows + k * kLanes, value[k]);
  }
}

void quantize(const ColumnsTask& task) {
  float loss[kSolveRows] = {};
  float distance[kSolveRows] = {};
  for (long j = task.first; j < task.last; ++j) {
    Vector value[kVectors];
    for (long k = 0; k < kVectors; ++k) value[k] = load_vector(task.v + j * kSolveRows + k * kLanes);
    if (task.inverse != nullptr)
      subtract_errors(task.e, task.inverse + j * kSolveBatch, task.fresh, j, value);
    float v[kSolveRows];
    for (long k = 0; k < kVectors; ++k) store_vector(v + k * kLanes, value[k]);

    const float* scale = task.scale + static_cast<long>(task.group[j]) * kSolveRows;
    const float* zero = task.zero + static_cast<long>(task.group[j]) * kSolveRows;
    const float pivot = task.pivot == nullptr ? 0.0f : task.pivot[j];
    const float* w = task.w + j * kSolveRows;
    float* e = task.e + j * kSolveRows;
    float* difference = task.difference + j * kSolveRows;
    unsigned char* codes = task.codes + j * kSolveRows;
    for (long r = 0; r < kSolveRows; ++r) {
      // Rounded the same way as in the search (solve_search.cpp).
      const float low = kNearest - zero[r];
      const float high = kNearest + (static_cast<float>(task.max_code) - zero[r]);
      float rounded = v[r] * (1.0f / scale[r]) + kNearest;
      rounded = rounded > low ? rounded : low;
      rounded = rounded < high ? rounded : high;
      const float steps = rounded - kNearest;
      const float q = steps * scale[r];
      const float error = (v[r] - q) * pivot;
      e[r] = error;
      difference[r] = w[r] - q;
      codes[r] = static_cast<unsigned char>(static_cast<int>(steps + zero[r]));
      loss[r] += error * error;
      distance[r] += difference[r] * difference[r];
    }
  }
  for (long r = 0; r < kSolveRows; ++r) {
    task.loss[r] += loss[r];
    task.distance[r] += distance[r];
  }
}

extern const SolveTable solve_table = {multiply, pack, invert, search, propagate, quantize, add_squares};

}  // namespace gptq::GPTQ_ISA
