#pragma once

// For the files of this folder only: every function has internal linkage, so that each instruction-set build
// keeps its own copy. Plain arithmetic without branches: GCC turns loops over these into vector code.

#include <cstdint>

namespace gptq::GPTQ_ISA {
namespace {

using std::uint16_t;
using std::uint32_t;

inline float float_of(uint32_t bits) {
  return __builtin_bit_cast(float, bits);
}
inline uint32_t bits_of(float value) {
  return __builtin_bit_cast(uint32_t, value);
}

inline float load(const float* p) {
  return *p;
}
inline float load(const uint16_t* p) {
  return float_of(static_cast<uint32_t>(*p) << 16);
}

inline void store(float* p, float value) {
  *p = value;
}
/// bf16, round to nearest even; NaN stays NaN.
inline void store(uint16_t* p, float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40u;
  *p = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

/// The same for numbers of which it is known that they are none of the odd NaNs that rounding would turn into
/// zero.
inline void store_number(float* p, float value) {
  *p = value;
}
inline void store_number(uint16_t* p, float value) {
  const uint32_t bits = bits_of(value);
  *p = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// The nearest value of IEEE half precision that is positive and finite; for x > -2^-24.
inline float to_positive_half(float x) {
  x = x < 65504.0f ? x : 65504.0f;
  const uint32_t bits = bits_of(x);
  const float normal = float_of((bits + 0xfffu + ((bits >> 13) & 1u)) & ~0x1fffu);
  const float subnormal = (x + 0.75f) - 0.75f;  // one unit in the last place of [1/2, 1) is 2^-24
  const float rounded = x < 6.103515625e-5f ? subnormal : normal;
  return rounded > 5.9604645e-8f ? rounded : 5.9604645e-8f;
}

/// p · 2^n for the integer n that was rounded into the low bits of `shifted`; 0 below 2^-126, infinity above
/// 2^127. Integer bounds, as GCC splits the vector loop where floats are compared with constants.
inline float scale_by_power(float p, float shifted, float round) {
  int n = static_cast<int>(bits_of(shifted)) - static_cast<int>(bits_of(round));
  n = n < -127 ? -127 : n;
  n = n > 128 ? 128 : n;
  return p * float_of(static_cast<uint32_t>(n + 127) << 23);
}

/// 2^x to 2 units in the last place, for finite x; NaN stays NaN.
inline float exp2_of(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5·2^23: adding it leaves the nearest integer in the low bits
  // A caller's x = a·b must be rounded here, once: fused into both sums below it would leave a huge r for a
  // large x.
  x += 0.0f;
  const float shifted = x + kRound;
  const float r = x - (shifted - kRound);  // [-1/2, 1/2]
  // Taylor series of 2^r: the first term left out is below 2e-7 relative.
  float p = 1.5403530e-4f;
  p = p * r + 1.3333558e-3f;
  p = p * r + 9.6181291e-3f;
  p = p * r + 5.5504109e-2f;
  p = p * r + 2.4022651e-1f;
  p = p * r + 6.9314718e-1f;
  p = p * r + 1.0f;
  return scale_by_power(p, shifted, kRound);
}

/// The same to 5e-5 relative: a fortieth of the step between two bf16 numbers, for results stored as such.
inline float coarse_exp2_of(float x) {
  constexpr float kRound = 12582912.0f;
  x += 0.0f;
  const float shifted = x + kRound;
  const float r = x - (shifted - kRound);
  float p = 9.6181291e-3f;
  p = p * r + 5.5504109e-2f;
  p = p * r + 2.4022651e-1f;
  p = p * r + 6.9314718e-1f;
  p = p * r + 1.0f;
  return scale_by_power(p, shifted, kRound);
}

inline float exp_of(float x) {
  return exp2_of(x * 1.44269504f);
}

/// Absolute error below 3e-7; for finite x.
inline float tanh_of(float x) {
  return 1.0f - 2.0f / (exp2_of(x * 2.88539008f) + 1.0f);
}

/// Abramowitz & Stegun 7.1.26; absolute error below 5e-7; NaN gives 1.
inline float erf_of(float x) {
  constexpr uint32_t kFar = 0x41800000u;  // 16, where erf is 1 and the square still far from overflow
  const uint32_t magnitude = bits_of(x) & 0x7fffffffu;
  const float a = float_of(magnitude < kFar ? magnitude : kFar);
  const float t = 1.0f / (1.0f + 0.3275911f * a);
  float p = 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const float y = 1.0f - p * t * exp_of(-a * a);
  return x < 0 ? -y : y;
}

}  // namespace
}  // namespace gptq::GPTQ_ISA
