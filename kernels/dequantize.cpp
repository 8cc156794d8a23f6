#include "kernels/kernels.h"

namespace gptq {

HostTensor dequantize(const QuantizedWeights& weights) {
  HostTensor result = make_tensor(DType::f32, {weights.out_features, weights.in_features});
  const Matrix matrix = result.matrix();
  for (std::int64_t row = 0; row < weights.out_features; ++row) {
    const std::uint8_t* codes = weights.codes + row * weights.in_features;
    const f16* scales = weights.scales + row * weights.groups;
    const std::uint8_t* zeros = weights.zeros + row * weights.groups;
    float* values = matrix.row<float>(row);
    for (std::int64_t column = 0; column < weights.in_features; ++column) {
      const std::int32_t group = weights.group_of[column];
      values[column] = to_float(scales[group]) * static_cast<float>(codes[column] - zeros[group]);
    }
  }
  return result;
}

}  // namespace gptq
