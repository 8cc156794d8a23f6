#pragma once

#include <cstdint>
#include <vector>

#include "base/tensor.h"

namespace gptq::test {

/// The value of an e4m3 code by the definition: ±2^(e-7)·(1+m/8), ±2^-6·m/8 where e is 0; NaN for 0x7f, 0xff.
double fp8_value(std::uint8_t code);

/// code · scale of every element, the product rounded to f32 and then to dtype; scales
/// (ceil(rows/block_rows), ceil(cols/block_cols)).
HostTensor decoded_fp8(const std::vector<std::uint8_t>& codes, std::int64_t rows, std::int64_t cols,
                       const std::vector<float>& scales, std::int64_t block_rows, std::int64_t block_cols,
                       DType dtype);

/// Codes of all kinds but NaN, the same for the same seed.
std::vector<std::uint8_t> random_fp8_codes(std::int64_t count, std::uint64_t seed);

}  // namespace gptq::test
