#include "kernels/cpu/isa/solve_errors.h"
#include "kernels/cpu/isa/solve_parts.h"
#include "kernels/cpu/isa/solve_vector.h"

namespace gptq::GPTQ_ISA {
namespace {

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

namespace {

/// Per-row sums over columns of one batch; 128 terms are few enough for single precision.
struct Sums {
  float loss[kSolveRows] = {};
  float distance[kSolveRows] = {};
};

inline void add_to(float* sum, Vector x) {
  store_vector(sum, multiply_add(x, x, load_vector(sum)));
}

/// Columns [first, last), where v already holds the errors of the batch's columns before `first`.
void quantize_part(const ColumnsTask& task, long first, long last, Sums& sums) {
  const Vector nearest = broadcast(kNearest);
  const Vector top = broadcast(static_cast<float>(task.max_code));
  for (long j = first; j < last; ++j) {
    Vector value[kVectors];
    for (long k = 0; k < kVectors; ++k) value[k] = load_vector(task.v + j * kSolveRows + k * kLanes);
    if (task.inverse != nullptr) subtract_errors(task.e, task.inverse + j * kSolveBatch, first, j, value);

    const long group = static_cast<long>(task.group[j]) * kSolveRows;
    const Vector pivot = broadcast(task.pivot == nullptr ? 0.0f : task.pivot[j]);
    float whole[kSolveRows];
    for (long k = 0; k < kVectors; ++k) {
      const long lane = k * kLanes;
      const Vector scale = load_vector(task.scale + group + lane);
      const Vector zero = load_vector(task.zero + group + lane);
      // Rounded the same way as in the search (solve_search.cpp).
      const Vector low = nearest - zero;
      Vector rounded = multiply_add(value[k], broadcast(1.0f) / scale, nearest);
      rounded = smaller(larger(rounded, low), low + top);
      const Vector q = (rounded - nearest) * scale;
      const Vector error = (value[k] - q) * pivot;
      const Vector difference = load_vector(task.w + j * kSolveRows + lane) - q;
      store_vector(task.e + j * kSolveRows + lane, error);
      store_vector(task.difference + j * kSolveRows + lane, difference);
      store_vector(whole + lane, rounded - low);
      add_to(sums.loss + lane, error);
      add_to(sums.distance + lane, difference);
    }
    store_codes(whole, task.codes + j * kSolveRows);
  }
}

}  // namespace

void quantize(const ColumnsTask& task) {
  constexpr long kPart = 16;  // errors reach later columns four at a time, except within so many columns
  Sums sums;
  for (long first = task.first; first < task.last; first += kPart) {
    const long last = first + kPart < task.last ? first + kPart : task.last;
    if (task.inverse != nullptr) propagate(task.v, task.e, task.inverse, first, last, task.first, first);
    quantize_part(task, first, last, sums);
  }
  for (long r = 0; r < kSolveRows; ++r) {
    task.loss[r] += sums.loss[r];
    task.distance[r] += sums.distance[r];
  }
}

extern const SolveTable solve_table = {multiply, pack, invert, search, propagate, quantize, add_squares};

}  // namespace gptq::GPTQ_ISA
