#include "quant/hessian.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"

namespace gptq {

std::vector<int> hessian_exponents(std::span<const float> maximum, std::int64_t tokens) {
  GPTQ_EXPECT(tokens >= 0);
  // With |2^e_c x_c| < 2^half, a sum over fewer than 2^log_tokens products stays below 2^(2*half +
  // log_tokens).
  const int log_tokens = std::bit_width(static_cast<std::uint64_t>(std::max<std::int64_t>(tokens, 1)));
  const int half = (61 - log_tokens) / 2;
  std::vector<int> exponents(maximum.size(), 0);
  for (std::size_t c = 0; c < maximum.size(); ++c) {
    if (!std::isfinite(maximum[c]))
      throw NumericalError(
          "input column {} of a layer holds {}; the model's activations overflow: "
          "try compute.dtype: fp32, or check the model and the calibration data",
          c, maximum[c]);
    if (maximum[c] == 0.0f) continue;
    int exponent = 0;  // maximum < 2^exponent
    std::frexp(maximum[c], &exponent);
    exponents[c] = half - exponent;
  }
  return exponents;
}

HessianSum make_hessian_sum(std::span<const float> maximum, std::int64_t tokens) {
  HessianSum sum;
  sum.n = static_cast<std::int64_t>(maximum.size());
  sum.tokens = tokens;
  sum.exponents = hessian_exponents(maximum, tokens);
  sum.panels.assign(static_cast<std::size_t>(TriangularPanels::size(sum.n)), 0);
  return sum;
}

std::vector<double> to_hessian(const HessianSum& sum) {
  const std::int64_t n = sum.n;
  GPTQ_EXPECT(static_cast<std::int64_t>(sum.panels.size()) == TriangularPanels::size(n));
  GPTQ_EXPECT(static_cast<std::int64_t>(sum.exponents.size()) == n);
  std::vector<double> scale(static_cast<std::size_t>(n));
  for (std::size_t c = 0; c < scale.size(); ++c) scale[c] = std::ldexp(1.0, -sum.exponents[c]);
  const double per_token = 2.0 / static_cast<double>(std::max<std::int64_t>(sum.tokens, 1));

  std::vector<double> hessian(static_cast<std::size_t>(n * n));
  // Square tiles: the mirrored half is written column by column, within lines that stay in the cache.
  constexpr std::int64_t tile = 64;
  static_assert(TriangularPanels::kPanel % tile == 0);
  for (std::int64_t first_row = 0; first_row < n; first_row += tile) {
    for (std::int64_t first_col = first_row; first_col < n; first_col += tile) {
      for (std::int64_t i = first_row; i < std::min(first_row + tile, n); ++i) {
        const std::int64_t* row = sum.panels.data() + TriangularPanels::index(n, i, first_col);
        for (std::int64_t j = std::max(i, first_col); j < std::min(first_col + tile, n); ++j) {
          const double product = static_cast<double>(row[j - first_col]) * per_token;
          const double value =
              product * scale[static_cast<std::size_t>(i)] * scale[static_cast<std::size_t>(j)];
          hessian[static_cast<std::size_t>(i * n + j)] = value;
          hessian[static_cast<std::size_t>(j * n + i)] = value;
        }
      }
    }
  }
  return hessian;
}

}  // namespace gptq
