#include "kernels/cpu/isa/hessian_rows.h"

#include <immintrin.h>

namespace gptq::GPTQ_ISA {
namespace {

/// Both conversions follow the processor's default rounding: to nearest, ties to even.
void add_scaled(const float* product, long count, float row_scale, const float* column_scale, long* sum) {
  long j = 0;
#ifdef __AVX512DQ__
  const __m256 scale = _mm256_set1_ps(row_scale);
  for (; j + 8 <= count; j += 8) {
    // Row first, then column: each product is a power of two times the float, so no rounding happens twice.
    const __m256 value =
        _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(product + j), scale), _mm256_loadu_ps(column_scale + j));
    const __m512i integer = _mm512_cvtps_epi64(value);
    _mm512_storeu_si512(sum + j, _mm512_add_epi64(integer, _mm512_loadu_si512(sum + j)));
  }
#endif
  for (; j < count; ++j) sum[j] += _mm_cvtss_si64(_mm_set_ss(product[j] * row_scale * column_scale[j]));
}

void max_bits_f32(const unsigned* x, long rows, long stride, long count, unsigned* maximum) {
  for (long r = 0; r < rows; ++r) {
    const unsigned* row = x + r * stride;
    for (long c = 0; c < count; ++c) {
      const unsigned magnitude = row[c] & 0x7fffffffu;
      maximum[c] = magnitude > maximum[c] ? magnitude : maximum[c];
    }
  }
}

void max_bits_bf16(const unsigned short* x, long rows, long stride, long count, unsigned* maximum) {
  for (long r = 0; r < rows; ++r) {
    const unsigned short* row = x + r * stride;
    for (long c = 0; c < count; ++c) {
      const unsigned magnitude = (row[c] & 0x7fffu) << 16;
      maximum[c] = magnitude > maximum[c] ? magnitude : maximum[c];
    }
  }
}

}  // namespace

extern const HessianTable hessian_table = {add_scaled, max_bits_f32, max_bits_bf16};

}  // namespace gptq::GPTQ_ISA
