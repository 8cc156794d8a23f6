#pragma once

#include <cstdint>
#include <limits>

namespace gptq {

/// An 8-bit float as stored, safetensors' F8_E4M3 (torch.float8_e4m3fn): a sign, four bits of exponent with
/// bias 7, three of mantissa. No infinities; 0x7f and 0xff are NaN; the largest value is 448, the least
/// above zero 2^-9 (Micikevicius et al. 2022, table 1).
struct f8_e4m3 {
  std::uint8_t bits;
};

/// Exact: every value is one of f32 (and of bf16 and f16).
constexpr float to_float(f8_e4m3 value) {
  const int magnitude = value.bits & 0x7f;
  if (magnitude == 0x7f) return std::numeric_limits<float>::quiet_NaN();
  const int exponent = magnitude >> 3;
  const int mantissa = magnitude & 7;
  // In units of 2^-9, the step of the subnormals: at most 15 · 2^14, exact in an int and in a float.
  const int units = exponent == 0 ? mantissa : (8 + mantissa) << (exponent - 1);
  const float absolute = static_cast<float>(units) * 0x1p-9f;
  return (value.bits & 0x80) != 0 ? -absolute : absolute;
}

}  // namespace gptq
