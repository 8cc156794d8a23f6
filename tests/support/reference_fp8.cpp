#include "support/reference_fp8.h"

#include <cmath>
#include <limits>
#include <random>

namespace gptq::test {

double fp8_value(std::uint8_t code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<double>::quiet_NaN();
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa / 8.0, -6) : std::ldexp(1 + mantissa / 8.0, exponent - 7);
  return code & 0x80 ? -magnitude : magnitude;
}

HostTensor decoded_fp8(const std::vector<std::uint8_t>& codes, std::int64_t rows, std::int64_t cols,
                       const std::vector<float>& scales, std::int64_t block_rows, std::int64_t block_cols,
                       DType dtype) {
  const std::int64_t across = (cols + block_cols - 1) / block_cols;
  HostTensor values = make_tensor(DType::f32, {rows, cols});
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      const float scale = scales.at(static_cast<std::size_t>(r / block_rows * across + c / block_cols));
      // Four bits times 24: exact in a double, so that this is the f32 product.
      const double product =
          fp8_value(codes.at(static_cast<std::size_t>(r * cols + c))) * static_cast<double>(scale);
      values.matrix().row<float>(r)[c] = static_cast<float>(product);
    }
  }
  return convert(values, dtype);
}

std::vector<std::uint8_t> random_fp8_codes(std::int64_t count, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(count));
  for (std::uint8_t& code : codes) {
    do {
      code = static_cast<std::uint8_t>(engine() >> 20);
    } while ((code & 0x7f) == 0x7f);
  }
  return codes;
}

}  // namespace gptq::test
