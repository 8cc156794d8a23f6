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

double HessianSum::scale() const {
  return 2.0 / static_cast<double>(std::max<std::int64_t>(tokens, 1));
}

HessianSum make_hessian_sum(Backend& backend, std::span<const float> maximum, std::int64_t tokens) {
  HessianSum sum;
  sum.n = static_cast<std::int64_t>(maximum.size());
  sum.tokens = tokens;
  sum.exponents = hessian_exponents(maximum, tokens);
  sum.panels =
      backend.allocate(static_cast<std::size_t>(TriangularPanels::size(sum.n)) * sizeof(std::int64_t));
  backend.set_zero(sum.panels.data(), sum.panels.size());
  return sum;
}

CrossSum make_cross_sum(Backend& backend, CorrectionTarget target, std::span<const float> d_bound,
                        std::int64_t n, std::int64_t tokens) {
  CrossSum cross;
  cross.target = target;
  cross.rows = static_cast<std::int64_t>(d_bound.size());
  cross.n = n;
  cross.tokens = tokens;
  cross.d_exponents = hessian_exponents(d_bound, tokens);
  cross.sum = backend.allocate(static_cast<std::size_t>(cross.rows * n) * sizeof(std::int64_t));
  backend.set_zero(cross.sum.data(), cross.sum.size());
  return cross;
}

std::vector<double> to_hessian(Backend& backend, const HessianSum& sum) {
  const std::int64_t n = sum.n;
  GPTQ_EXPECT(static_cast<std::int64_t>(sum.exponents.size()) == n);
  std::vector<std::int64_t> panels(sum.count());
  backend.download(panels.data(), sum.values(), sum.panels.size());
  std::vector<double> hessian(static_cast<std::size_t>(n * n));
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = i; j < n; ++j) {
      const auto entry =
          static_cast<double>(panels[static_cast<std::size_t>(TriangularPanels::index(n, i, j))]);
      const int exponent =
          sum.exponents[static_cast<std::size_t>(i)] + sum.exponents[static_cast<std::size_t>(j)];
      const double value = std::ldexp(entry * sum.scale(), -exponent);
      hessian[static_cast<std::size_t>(i * n + j)] = hessian[static_cast<std::size_t>(j * n + i)] = value;
    }
  }
  return hessian;
}

}  // namespace gptq
