#include "kernels/cpu/isa/solve_parts.h"
#include "kernels/cpu/isa/solve_vector.h"
#include "kernels/cpu/isa/vector_math.h"

namespace gptq::GPTQ_ISA {
namespace {

constexpr long kRows = kSolveRows;
constexpr long kCandidates = 4;  // tried together: their bounds and sums fill the registers
constexpr long kChunk = 128;  // columns of 64 rows that stay in the L1 cache while all candidates are tried

inline float round_to_whole(float x) {
  return (x + kNearest) - kNearest;
}

/// log2 of a positive normal number, absolute error below 1e-7 times its magnitude.
inline float log2_of(float x) {
  constexpr uint32_t kSqrtHalf = 0x3f3504f3u;
  const uint32_t shifted = bits_of(x) - kSqrtHalf;
  const float exponent = static_cast<float>(static_cast<std::int32_t>(shifted) >> 23);
  const float mantissa = float_of((shifted & 0x7fffffu) + kSqrtHalf);  // [sqrt(1/2), sqrt(2))
  const float s = (mantissa - 1.0f) / (mantissa + 1.0f);  // log2 m = 2/ln2 (s + s³/3 + s⁵/5 + …)
  const float t = s * s;
  float p = 0.32059889f;
  p = p * t + 0.41219858f;
  p = p * t + 0.57707802f;
  p = p * t + 0.96179669f;
  p = p * t + 2.88539008f;
  return exponent + p * s;
}

inline float power_of(float x, float norm) {
  return exp2_of(norm * log2_of(x > 1e-30f ? x : 1e-30f));
}

/// Rows' smallest and largest values, widened to include 0; (-1, 1) for rows of zeros, and symmetric if
/// asked.
void find_ranges(const SearchTask& task, float* low, float* high) {
  for (long r = 0; r < kRows; ++r) low[r] = high[r] = 0.0f;
  for (long c = 0; c < task.columns; ++c) {
    const float* x = task.x + c * kRows;
    for (long r = 0; r < kRows; ++r) {
      low[r] = x[r] < low[r] ? x[r] : low[r];
      high[r] = x[r] > high[r] ? x[r] : high[r];
    }
  }
  for (long r = 0; r < kRows; ++r) {
    const float largest = -low[r] > high[r] ? -low[r] : high[r];
    const bool empty = largest == 0.0f;
    low[r] = empty ? -1.0f : (task.sym ? -largest : low[r]);
    high[r] = empty ? 1.0f : (task.sym ? largest : high[r]);
  }
}

/// Scale and zero of ranges shrunk to the fraction p. An asymmetric zero of 0 becomes 1 (checkpoint format v1
/// stores zero - 1, and readers disagree about what -1 means), with the scale that keeps the top of the
/// range. second: with the whole number on the other side of the ideal zero.
void make_grid(const SearchTask& task, const float* low, const float* high, float p, bool second,
               float* scale, float* zero) {
  const float codes = static_cast<float>(task.max_code);
  const float middle = static_cast<float>((task.max_code + 1) / 2);
  for (long r = 0; r < kRows; ++r) {
    const float step = to_positive_half((p * high[r] - p * low[r]) / codes);
    const float ideal = -(p * low[r]) / step;
    const float nearest = round_to_whole(ideal);
    const float other = ideal > nearest ? nearest + 1.0f : nearest - 1.0f;
    float at = second ? other : nearest;
    at = at < codes ? at : codes;
    const bool all_positive = !task.sym && at < 1.0f;
    const float positive_step = to_positive_half(p * high[r] / (codes - 1.0f));
    scale[r] = all_positive ? positive_step : step;
    zero[r] = task.sym ? middle : (all_positive ? 1.0f : at);
  }
}

/// The candidates' arrays, each (candidates rounded up, 64).
struct Grids {
  float *scale, *zero, *inverse, *error;
};

/// error[candidate] += Σ weight (x/scale - code)², in units of the candidate's scale, over one chunk of
/// columns.
void add_square_errors(const float* x, const float* weight, long columns, int max_code, const Grids& grids,
                       long candidate) {
  const Vector round = broadcast(kNearest);
  const Vector top = broadcast(static_cast<float>(max_code));
  for (long v = 0; v < kVectors; ++v) {
    Vector inverse[kCandidates], low[kCandidates], high[kCandidates], error[kCandidates];
    for (long i = 0; i < kCandidates; ++i) {
      const long place = (candidate + i) * kRows + v * kLanes;
      inverse[i] = load_vector(grids.inverse + place);
      low[i] = round - load_vector(grids.zero + place);
      high[i] = low[i] + top;
      error[i] = broadcast(0.0f);
    }
    for (long c = 0; c < columns; ++c) {
      const Vector value = load_vector(x + c * kRows + v * kLanes);
      const Vector h = broadcast(weight[c]);
      for (long i = 0; i < kCandidates; ++i) {
        Vector rounded = multiply_add(value, inverse[i], round);
        rounded = smaller(larger(rounded, low[i]), high[i]);
        const Vector difference = multiply_subtract(value, inverse[i], rounded - round);
        error[i] = multiply_add(difference * h, difference, error[i]);
      }
    }
    for (long i = 0; i < kCandidates; ++i) {
      float* total = grids.error + (candidate + i) * kRows + v * kLanes;
      store_vector(total, load_vector(total) + error[i]);
    }
  }
}

/// The same with |·|^norm.
void add_power_errors(const SearchTask& task, long first, long columns, const Grids& grids, long candidate) {
  const float codes = static_cast<float>(task.max_code);
  const float norm = task.norm;
  for (long i = candidate; i < candidate + kCandidates; ++i) {
    const float* inverse = grids.inverse + i * kRows;
    const float* zero = grids.zero + i * kRows;
    float error[kRows] = {};
    for (long c = first; c < first + columns; ++c) {
      const float* x = task.x + c * kRows;
      const float h = task.weight[c];
      for (long r = 0; r < kRows; ++r) {
        const float low = kNearest - zero[r];
        const float high = low + codes;
        const float scaled = x[r] * inverse[r];
        float rounded = scaled + kNearest;
        rounded = rounded > low ? rounded : low;
        rounded = rounded < high ? rounded : high;
        const float difference = scaled - (rounded - kNearest);
        error[r] += h * power_of(difference < 0 ? -difference : difference, norm);
      }
    }
    for (long r = 0; r < kRows; ++r) grids.error[i * kRows + r] += error[r];
  }
}

void choose(const SearchTask& task, const Grids& grids) {
  float best[kRows];
  for (long i = 0; i < task.candidates; ++i) {
    const float* scale = grids.scale + i * kRows;
    const float* zero = grids.zero + i * kRows;
    const float* error = grids.error + i * kRows;
    for (long r = 0; r < kRows; ++r) {
      const float unit = task.norm == 2.0f ? scale[r] * scale[r] : power_of(scale[r], task.norm);
      const float value = error[r] * unit;
      const bool better = i == 0 || value < best[r];
      best[r] = better ? value : best[r];
      task.scale[r] = better ? scale[r] : task.scale[r];
      task.zero[r] = better ? zero[r] : task.zero[r];
    }
  }
}

}  // namespace

void search(const SearchTask& task) {
  float low[kRows], high[kRows];
  find_ranges(task, low, high);
  if (task.candidates == 1) {
    make_grid(task, low, high, task.shrink[0], false, task.scale, task.zero);
    return;
  }
  const long padded = (task.candidates + kCandidates - 1) / kCandidates * kCandidates;
  const long size = padded * kRows;
  const Grids grids{task.scratch, task.scratch + size, task.scratch + 2 * size, task.scratch + 3 * size};
  for (long i = 0; i < padded; ++i) {
    const long last = task.candidates - 1;
    make_grid(task, low, high, task.shrink[i < last ? i : last], task.two_zeros && i % 2 == 1,
              grids.scale + i * kRows, grids.zero + i * kRows);
  }
  for (long k = 0; k < size; ++k) {
    grids.inverse[k] = 1.0f / grids.scale[k];
    grids.error[k] = 0.0f;
  }
  for (long first = 0; first < task.columns; first += kChunk) {
    const long columns = task.columns - first < kChunk ? task.columns - first : kChunk;
    for (long i = 0; i < padded; i += kCandidates) {
      if (task.norm == 2.0f)
        add_square_errors(task.x + first * kRows, task.weight + first, columns, task.max_code, grids, i);
      else
        add_power_errors(task, first, columns, grids, i);
    }
  }
  choose(task, grids);
}

}  // namespace gptq::GPTQ_ISA
