#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace gptq {

/// Element types that occur in model files and in computation.
enum class DType { f32, f16, bf16, f64, i8, u8, i16, i32, i64, boolean, f8_e4m3 };

std::size_t size_of(DType dtype);              ///< bytes per element
std::string_view name_of(DType dtype);         ///< the safetensors name: "F32", "BF16", "I32", ...
DType dtype_from_name(std::string_view name);  ///< inverse of name_of; throws InputError

/// A bfloat16 value as stored: the upper half of an IEEE float.
struct bf16 {
  std::uint16_t bits;
};
/// An IEEE half as stored.
struct f16 {
  std::uint16_t bits;
};

inline float to_float(bf16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}
inline float to_float(float value) {
  return value;
}
inline float to_float(f16 value) {
  return static_cast<float>(std::bit_cast<_Float16>(value.bits));
}

/// Round to nearest even; NaN stays NaN.
inline bf16 to_bf16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t quiet_nan = (bits >> 16) | 0x40u;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return {static_cast<std::uint16_t>(is_nan ? quiet_nan : rounded)};
}
/// Round to nearest even; overflow gives infinity.
inline f16 to_f16(float value) {
  return {std::bit_cast<std::uint16_t>(static_cast<_Float16>(value))};
}

}  // namespace gptq
