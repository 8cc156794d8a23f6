#pragma once

#include <math.h>

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <limits>
#include <source_location>
#include <type_traits>

#include "tests/cuda_emulation/block.h"

/// Device functions that nvcc knows and g++ does not, in the global namespace as there. Those that CUDA
/// rounds exactly give CUDA's bits; the others (expf, tanhf, ...) the host library's, within the accuracy
/// CUDA promises.

// ---- synchronisation and warps

inline void __syncthreads(std::source_location where = std::source_location::current()) {
  emulation::block_barrier(where);
}

namespace emulation {

inline void check_mask(unsigned mask, std::source_location where) {
  if (mask != 0xffffffffu) fail("warp collective without the full mask", where);
}

template <typename T>
const Exchange& exchange_value(const char* operation, unsigned mask, T value, std::source_location where) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  check_mask(mask, where);
  return exchange(operation, &value, sizeof(T), where);
}

/// Value of lane `from` of the same segment of `width` lanes; the caller's own if it is outside.
template <typename T>
T shuffle(const char* operation, unsigned mask, T value, int from, int width, std::source_location where) {
  const Exchange& all = exchange_value(operation, mask, value, where);
  const int first = static_cast<int>(lane()) / width * width;
  if (from < first || from >= first + width) return value;
  if (from >= static_cast<int>(all.lanes)) fail("shuffle from a lane that does not exist", where);
  return all.of<T>(static_cast<unsigned>(from));
}

}  // namespace emulation

inline void __syncwarp(unsigned mask = 0xffffffffu,
                       std::source_location where = std::source_location::current()) {
  emulation::exchange_value("__syncwarp", mask, 0, where);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32,
              std::source_location where = std::source_location::current()) {
  const int first = static_cast<int>(emulation::lane()) / width * width;
  return emulation::shuffle("__shfl_sync", mask, value, first + (from & (width - 1)), width, where);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                  std::source_location where = std::source_location::current()) {
  return emulation::shuffle("__shfl_xor_sync", mask, value, static_cast<int>(emulation::lane()) ^ lanes,
                            width, where);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 std::source_location where = std::source_location::current()) {
  return emulation::shuffle("__shfl_up_sync", mask, value,
                            static_cast<int>(emulation::lane()) - static_cast<int>(delta), width, where);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   std::source_location where = std::source_location::current()) {
  return emulation::shuffle("__shfl_down_sync", mask, value,
                            static_cast<int>(emulation::lane()) + static_cast<int>(delta), width, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              std::source_location where = std::source_location::current()) {
  const emulation::Exchange& all = emulation::exchange_value("__ballot_sync", mask, predicate, where);
  unsigned bits = 0;
  for (unsigned i = 0; i < all.lanes; ++i) bits |= static_cast<unsigned>(all.of<int>(i) != 0) << i;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate,
                      std::source_location where = std::source_location::current()) {
  const emulation::Exchange& all = emulation::exchange_value("__any_sync", mask, predicate, where);
  for (unsigned i = 0; i < all.lanes; ++i)
    if (all.of<int>(i) != 0) return 1;
  return 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      std::source_location where = std::source_location::current()) {
  const emulation::Exchange& all = emulation::exchange_value("__all_sync", mask, predicate, where);
  for (unsigned i = 0; i < all.lanes; ++i)
    if (all.of<int>(i) == 0) return 0;
  return 1;
}

/// The integer reductions of sm_80.
template <std::integral T>
T __reduce_max_sync(unsigned mask, T value, std::source_location where = std::source_location::current()) {
  const emulation::Exchange& all = emulation::exchange_value("__reduce_max_sync", mask, value, where);
  for (unsigned i = 0; i < all.lanes; ++i) value = all.of<T>(i) > value ? all.of<T>(i) : value;
  return value;
}
template <std::integral T>
T __reduce_add_sync(unsigned mask, T value, std::source_location where = std::source_location::current()) {
  const emulation::Exchange& all = emulation::exchange_value("__reduce_add_sync", mask, value, where);
  T sum = 0;
  for (unsigned i = 0; i < all.lanes; ++i) sum = static_cast<T>(sum + all.of<T>(i));
  return sum;
}

inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- memory

template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
void __stcs(T* address, T value) {
  *address = value;
}

// Threads of a block share one OS thread and blocks run one by one: plain operations are atomic. No floats:
// the order of their additions would decide bits.
#define GPTQ_EMULATE_ATOMIC(name, expression)           \
  template <std::integral T>                            \
  T name(T* address, std::type_identity_t<T> operand) { \
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);    \
    const T old = *address;                             \
    *address = static_cast<T>(expression);              \
    return old;                                         \
  }
GPTQ_EMULATE_ATOMIC(atomicAdd,
                    static_cast<std::make_unsigned_t<T>>(old) + static_cast<std::make_unsigned_t<T>>(operand))
GPTQ_EMULATE_ATOMIC(atomicMax, old > operand ? old : operand)
GPTQ_EMULATE_ATOMIC(atomicMin, old < operand ? old : operand)
GPTQ_EMULATE_ATOMIC(atomicOr, old | operand)
GPTQ_EMULATE_ATOMIC(atomicAnd, old& operand)
GPTQ_EMULATE_ATOMIC(atomicXor, old ^ operand)
GPTQ_EMULATE_ATOMIC(atomicExch, operand)
#undef GPTQ_EMULATE_ATOMIC
template <std::integral T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  const T old = *address;
  if (old == expected) *address = value;
  return old;
}

// ---- arithmetic with one IEEE rounding (compile with -ffp-contract=off)

inline float __fmaf_rn(float a, float b, float c) {
  return fmaf(a, b, c);
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline float __fsqrt_rn(float a) {
  return sqrtf(a);
}
inline float __frcp_rn(float a) {
  return 1.0f / a;
}
inline double __fma_rn(double a, double b, double c) {
  return fma(a, b, c);
}
inline double __dmul_rn(double a, double b) {
  return a * b;
}
inline double __dadd_rn(double a, double b) {
  return a + b;
}
inline double __dsub_rn(double a, double b) {
  return a - b;
}
inline double __ddiv_rn(double a, double b) {
  return a / b;
}
inline double __dsqrt_rn(double a) {
  return sqrt(a);
}

// ---- functions that CUDA rounds less exactly

inline float rsqrtf(float x) {
  return static_cast<float>(1.0 / sqrt(static_cast<double>(x)));
}
inline double rsqrt(double x) {
  return 1.0 / sqrt(x);
}
// glibc declares functions of these names, but does not export them.
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __powf(x, y) powf(x, y)
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __saturatef(float x) {
  return x > 0 ? (x < 1 ? x : 1) : 0;
}

template <typename T, typename U>
constexpr auto max(T a, U b) -> std::common_type_t<T, U> {
  static_assert(std::is_arithmetic_v<T> && std::is_arithmetic_v<U>);
  return a < b ? std::common_type_t<T, U>(b) : std::common_type_t<T, U>(a);
}
template <typename T, typename U>
constexpr auto min(T a, U b) -> std::common_type_t<T, U> {
  static_assert(std::is_arithmetic_v<T> && std::is_arithmetic_v<U>);
  return b < a ? std::common_type_t<T, U>(b) : std::common_type_t<T, U>(a);
}

// ---- conversions

inline float __int_as_float(int x) {
  return std::bit_cast<float>(x);
}
inline int __float_as_int(float x) {
  return std::bit_cast<int>(x);
}
inline float __uint_as_float(unsigned x) {
  return std::bit_cast<float>(x);
}
inline unsigned __float_as_uint(float x) {
  return std::bit_cast<unsigned>(x);
}
inline double __longlong_as_double(long long x) {
  return std::bit_cast<double>(x);
}
inline long long __double_as_longlong(double x) {
  return std::bit_cast<long long>(x);
}
inline float __int2float_rn(int x) {
  return static_cast<float>(x);
}
inline float __uint2float_rn(unsigned x) {
  return static_cast<float>(x);
}
inline float __ll2float_rn(long long x) {
  return static_cast<float>(x);
}
inline double __ll2double_rn(long long x) {
  return static_cast<double>(x);
}
inline float __double2float_rn(double x) {
  return static_cast<float>(x);
}

namespace emulation {

/// PTX cvt from floating point to integers: out of range gives the nearest representable value; NaN gives 0,
/// or the sign bit alone where either type has 64 bits.
template <std::integral To, std::floating_point From>
To saturating_integer(From rounded) {
  using Limits = std::numeric_limits<To>;
  if (rounded != rounded) {
    if constexpr (sizeof(To) == 8 || sizeof(From) == 8) return static_cast<To>(To{1} << (sizeof(To) * 8 - 1));
    return 0;
  }
  // 2^digits is the first value above the range, and exact in either floating type.
  if (rounded >= ldexp(From{1}, Limits::digits)) return Limits::max();
  if (rounded <= static_cast<From>(Limits::min())) return Limits::min();
  return static_cast<To>(rounded);
}

}  // namespace emulation

inline int __float2int_rn(float x) {
  return emulation::saturating_integer<int>(nearbyintf(x));
}
inline int __float2int_rz(float x) {
  return emulation::saturating_integer<int>(truncf(x));
}
inline int __float2int_rd(float x) {
  return emulation::saturating_integer<int>(floorf(x));
}
inline unsigned __float2uint_rn(float x) {
  return emulation::saturating_integer<unsigned>(nearbyintf(x));
}
inline long long __float2ll_rn(float x) {
  return emulation::saturating_integer<long long>(nearbyintf(x));
}
inline int __double2int_rn(double x) {
  return emulation::saturating_integer<int>(nearbyint(x));
}
inline long long __double2ll_rn(double x) {
  return emulation::saturating_integer<long long>(nearbyint(x));
}

// ---- bits

inline int __popc(unsigned x) {
  return std::popcount(x);
}
inline int __popcll(unsigned long long x) {
  return std::popcount(x);
}
/// Four of the eight bytes of (high, low), chosen by the selector's four hexadecimal digits (0 to 7; the sign
/// mode of digits 8 to f is not emulated).
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const std::uint64_t both = std::uint64_t{high} << 32 | low;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i)
    result |= static_cast<unsigned>(both >> (8 * (selector >> 4 * i & 7u)) & 0xffu) << 8 * i;
  return result;
}
inline int __clz(int x) {
  return std::countl_zero(static_cast<unsigned>(x));
}
inline int __ffs(int x) {
  return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1;
}
