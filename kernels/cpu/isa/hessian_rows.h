#pragma once

namespace gptq {

/// Inner loops of the Hessian kernels; see isa.h for how the three builds are chosen.
struct HessianTable {
  /// sum[j] += round to nearest even (product[j] * row_scale * column_scale[j]); scales are powers of two and
  /// the scaled products stay below 2^62.
  void (*add_scaled)(const float* product, long count, float row_scale, const float* column_scale, long* sum);
  /// maximum[c] = max(maximum[c], bits of |x(r, c)|) for `rows` rows of `count` floats, `stride` elements
  /// apart. As unsigned integers the bits of magnitudes order like the magnitudes, with NaN above infinity.
  void (*max_bits_f32)(const unsigned* x, long rows, long stride, long count, unsigned* maximum);
  /// The same for bfloat16; maximum holds float bits.
  void (*max_bits_bf16)(const unsigned short* x, long rows, long stride, long count, unsigned* maximum);
};

namespace isa_v2 {
extern const HessianTable hessian_table;
}
namespace isa_v3 {
extern const HessianTable hessian_table;
}
namespace isa_v4 {
extern const HessianTable hessian_table;
}

}  // namespace gptq
