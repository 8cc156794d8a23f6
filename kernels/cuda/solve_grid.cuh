#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/solve_tasks.h"

/// Grids of the scale search: the arithmetic of kernels/cpu/isa/solve_search.cpp, rounding by rounding, so
/// that both backends choose the same scales from the same values. (fmaf where the CPU's compiler contracts.)
namespace gptq::cuda {

/// x + kNearest holds the whole number nearest to x (ties to even) in its low bits, for |x| < 2^22.
constexpr float kNearest = 12582912.0f;  // 1.5 * 2^23

struct ScaleZero {
  float scale, zero;
};

/// The nearest value of IEEE half precision that is positive and finite; x >= 0.
__device__ inline float to_positive_half(float x) {
  x = x < 65504.0f ? x : 65504.0f;
  const unsigned bits = static_cast<unsigned>(__float_as_int(x));
  const unsigned even = (bits + 0xfffu + ((bits >> 13) & 1u)) & ~0x1fffu;
  const float normal = __int_as_float(static_cast<int>(even));
  const float subnormal = (x + 0.75f) - 0.75f;  // one unit in the last place of [1/2, 1) is 2^-24
  const float rounded = x < 6.103515625e-5f ? subnormal : normal;
  return rounded > 5.9604645e-8f ? rounded : 5.9604645e-8f;
}

/// log2 of a positive normal number, absolute error below 1e-7 times its magnitude.
__device__ inline float log2_of(float x) {
  constexpr unsigned kSqrtHalf = 0x3f3504f3u;
  const unsigned shifted = static_cast<unsigned>(__float_as_int(x)) - kSqrtHalf;
  const auto exponent = static_cast<float>(static_cast<int>(shifted) >> 23);
  const float mantissa = __int_as_float(static_cast<int>((shifted & 0x7fffffu) + kSqrtHalf));
  const float s = (mantissa - 1.0f) / (mantissa + 1.0f);  // log2 m = 2/ln2 (s + s³/3 + s⁵/5 + …)
  const float t = __fmul_rn(s, s);
  float p = 0.32059889f;
  p = fmaf(p, t, 0.41219858f);
  p = fmaf(p, t, 0.57707802f);
  p = fmaf(p, t, 0.96179669f);
  p = fmaf(p, t, 2.88539008f);
  return fmaf(p, s, exponent);
}

/// 2^x to 2 units in the last place, for finite x.
__device__ inline float exp2_of(float x) {
  const float shifted = x + kNearest;
  const float r = x - (shifted - kNearest);  // [-1/2, 1/2]
  float p = 1.5403530e-4f;
  p = fmaf(p, r, 1.3333558e-3f);
  p = fmaf(p, r, 9.6181291e-3f);
  p = fmaf(p, r, 5.5504109e-2f);
  p = fmaf(p, r, 2.4022651e-1f);
  p = fmaf(p, r, 6.9314718e-1f);
  p = fmaf(p, r, 1.0f);
  int n = __float_as_int(shifted) - __float_as_int(kNearest);
  n = n < -127 ? -127 : n;
  n = n > 128 ? 128 : n;
  return p * __int_as_float((n + 127) << 23);
}

__device__ inline float power_of(float x, float norm) {
  return exp2_of(__fmul_rn(norm, log2_of(x > 1e-30f ? x : 1e-30f)));
}

/// A group's range: widened to include 0; (-1, 1) where all values are zeros; symmetric if asked.
struct ScaleRange {
  float low = 0, high = 0;

  __device__ void add(float x) {
    low = x < low ? x : low;
    high = x > high ? x : high;
  }
  __device__ void finish(bool sym) {
    const float largest = -low > high ? -low : high;
    const bool empty = largest == 0.0f;
    low = empty ? -1.0f : (sym ? -largest : low);
    high = empty ? 1.0f : (sym ? largest : high);
  }
};

/// Scale and zero of the range shrunk to the fraction p. An asymmetric zero of 0 becomes 1 (checkpoint format
/// v1 stores zero - 1, and readers disagree about what -1 means), with the scale that keeps the range's top.
/// second: with the whole number on the other side of the ideal zero.
__device__ inline ScaleZero make_grid(const SolveGrid& grid, const ScaleRange& range, float p,
                                      bool second = false) {
  const auto codes = static_cast<float>(grid.max_code);
  const float low = __fmul_rn(p, range.low);
  const float high = __fmul_rn(p, range.high);
  const float step = to_positive_half(__fadd_rn(high, -low) / codes);
  if (grid.sym != 0) return {step, static_cast<float>((grid.max_code + 1) / 2)};
  const float ideal = -low / step;
  const float nearest = (ideal + kNearest) - kNearest;
  const float whole = !second ? nearest : ideal > nearest ? nearest + 1.0f : nearest - 1.0f;
  const float at = whole < codes ? whole : codes;
  if (at < 1.0f) return {to_positive_half(high / (codes - 1.0f)), 1.0f};
  return {step, at};
}

/// Candidates tried together, so that one load of a value serves several.
constexpr int kSearchTogether = 5;

/// The candidates first, first + step, … of a search, kSearchTogether of them.
struct SearchLot {
  ScaleZero at[kSearchTogether];
  float inverse[kSearchTogether], low[kSearchTogether], error[kSearchTogether];

  __device__ void start(const SolveGrid& grid, const ScaleRange& range, int first, int step) {
#pragma unroll
    for (int i = 0; i < kSearchTogether; ++i) {
      const int candidate = first + i * step;
      const int last = grid.candidates - 1;
      at[i] = make_grid(grid, range, __ldg(grid.shrink + (candidate < last ? candidate : last)),
                        grid.two_zeros != 0 && candidate % 2 == 1);
      inverse[i] = 1.0f / at[i].scale;
      low[i] = kNearest - at[i].zero;
      error[i] = 0;
    }
  }

  /// error += weight |value/scale - code|^norm, in units of the candidate's scale.
  template <bool kSquare>
  __device__ void add(float value, float weight, float codes, float norm) {
#pragma unroll
    for (int i = 0; i < kSearchTogether; ++i) {
      float rounded = fmaf(value, inverse[i], kNearest);
      rounded = fminf(fmaxf(rounded, low[i]), low[i] + codes);
      const float difference = fmaf(value, inverse[i], -(rounded - kNearest));
      if (kSquare)
        error[i] = fmaf(__fmul_rn(difference, weight), difference, error[i]);
      else
        error[i] = fmaf(weight, power_of(difference < 0 ? -difference : difference, norm), error[i]);
    }
  }
};

/// The best candidate so far: the first of those with the least error.
struct SearchBest {
  float error = 0;
  int candidate = -1;
  ScaleZero at{};

  /// Candidates must come in rising order.
  __device__ void offer(float total, int number, const ScaleZero& scale_zero, float norm) {
    const float scale = scale_zero.scale;
    const float unit = norm == 2.0f ? __fmul_rn(scale, scale) : power_of(scale, norm);
    const float value = __fmul_rn(total, unit);
    if (candidate < 0 || value < error) {
      error = value;
      candidate = number;
      at = scale_zero;
    }
  }
  /// Another one's best, whose candidates may lie before or after this one's.
  __device__ void merge(float other_error, int other, const ScaleZero& scale_zero) {
    if (other < 0) return;
    if (candidate >= 0 && !(other_error < error) && !(other_error == error && other < candidate)) return;
    error = other_error;
    candidate = other;
    at = scale_zero;
  }
};

}  // namespace gptq::cuda
