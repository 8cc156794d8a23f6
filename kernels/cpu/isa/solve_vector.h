#pragma once

// For the files of this folder only: the widest vector of floats of this build, with internal linkage.

#include <immintrin.h>

namespace gptq::GPTQ_ISA {
namespace {

#if defined(__AVX512F__)
using Vector = __m512;
inline Vector load_vector(const float* p) {
  return _mm512_loadu_ps(p);
}
inline void store_vector(float* p, Vector x) {
  _mm512_storeu_ps(p, x);
}
inline Vector broadcast(float x) {
  return _mm512_set1_ps(x);
}
// (GCC 12 warns of its own uninitialised value in the unmasked forms; the instructions are the same.)
inline Vector smaller(Vector a, Vector b) {
  return _mm512_maskz_min_ps(0xffff, a, b);
}
inline Vector larger(Vector a, Vector b) {
  return _mm512_maskz_max_ps(0xffff, a, b);
}
/// a*b + c
inline Vector multiply_add(Vector a, Vector b, Vector c) {
  return _mm512_fmadd_ps(a, b, c);
}
/// a*b - c
inline Vector multiply_subtract(Vector a, Vector b, Vector c) {
  return _mm512_fmsub_ps(a, b, c);
}
/// x < 0 ? a : b, lane by lane
inline Vector where_negative(Vector x, Vector a, Vector b) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), b, a);
}
#elif defined(__AVX2__)
using Vector = __m256;
inline Vector load_vector(const float* p) {
  return _mm256_loadu_ps(p);
}
inline void store_vector(float* p, Vector x) {
  _mm256_storeu_ps(p, x);
}
inline Vector broadcast(float x) {
  return _mm256_set1_ps(x);
}
inline Vector smaller(Vector a, Vector b) {
  return _mm256_min_ps(a, b);
}
inline Vector larger(Vector a, Vector b) {
  return _mm256_max_ps(a, b);
}
inline Vector multiply_add(Vector a, Vector b, Vector c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline Vector multiply_subtract(Vector a, Vector b, Vector c) {
  return _mm256_fmsub_ps(a, b, c);
}
inline Vector where_negative(Vector x, Vector a, Vector b) {
  return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ));
}
#else
using Vector = __m128;
inline Vector load_vector(const float* p) {
  return _mm_loadu_ps(p);
}
inline void store_vector(float* p, Vector x) {
  _mm_storeu_ps(p, x);
}
inline Vector broadcast(float x) {
  return _mm_set1_ps(x);
}
inline Vector smaller(Vector a, Vector b) {
  return _mm_min_ps(a, b);
}
inline Vector larger(Vector a, Vector b) {
  return _mm_max_ps(a, b);
}
inline Vector multiply_add(Vector a, Vector b, Vector c) {
  return _mm_add_ps(_mm_mul_ps(a, b), c);
}
inline Vector multiply_subtract(Vector a, Vector b, Vector c) {
  return _mm_sub_ps(_mm_mul_ps(a, b), c);
}
inline Vector where_negative(Vector x, Vector a, Vector b) {
  return _mm_blendv_ps(b, a, _mm_cmplt_ps(x, _mm_setzero_ps()));
}
#endif

constexpr long kLanes = sizeof(Vector) / sizeof(float);
constexpr long kVectors = 64 / kLanes;  // of one column of a panel

/// x + kNearest holds the whole number nearest to x (ties to even) in its low bits, for |x| < 2^22; beyond
/// that it is still on the right side of any smaller bound.
constexpr float kNearest = 12582912.0f;  // 1.5 * 2^23

}  // namespace
}  // namespace gptq::GPTQ_ISA
