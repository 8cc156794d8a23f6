#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "base/error.h"
#include "quant/hessian.h"
#include "support/test_backend.h"

namespace gptq {
namespace {

// The bound that integer sums rely on: |2^(e_i+e_j) x_i x_j| * tokens < 2^61, for magnitudes of any size.
TEST(HessianExponents, SumsStayBelowTheirBound) {
  std::mt19937 generator(1);
  std::uniform_real_distribution<double> exponent(-30, 30);
  std::vector<float> maximum{0.0f,
                             1.0f,
                             std::numeric_limits<float>::max(),
                             std::numeric_limits<float>::denorm_min(),
                             std::numeric_limits<float>::min(),
                             1e30f,
                             1e-30f,
                             65504.0f,
                             2.0f,
                             std::nextafter(2.0f, 0.0f)};
  for (int k = 0; k < 200; ++k) maximum.push_back(static_cast<float>(std::pow(10.0, exponent(generator))));
  for (const std::int64_t tokens : {1LL, 2LL, 3LL, 65535LL, 65536LL, 1LL << 24, (1LL << 40) + 1}) {
    const std::vector<int> e = hessian_exponents(maximum, tokens);
    double largest = 0, smallest = std::numeric_limits<double>::max();
    for (std::size_t i = 0; i < maximum.size(); ++i) {
      if (maximum[i] == 0) {
        EXPECT_EQ(e[i], 0);
        continue;
      }
      const double scaled = std::ldexp(maximum[i], e[i]);
      largest = std::max(largest, scaled);
      smallest = std::min(smallest, scaled);
    }
    EXPECT_LT(largest * largest * static_cast<double>(tokens), std::ldexp(1.0, 61)) << tokens;
    // ... and no more bits are given away than rounding to powers of two costs.
    EXPECT_GE(smallest * smallest * static_cast<double>(tokens), std::ldexp(1.0, 61 - 6)) << tokens;
  }
}

TEST(HessianExponents, NanAndInfinityNameTheColumn) {
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    try {
      hessian_exponents(std::vector<float>{1.0f, bad}, 10);
      FAIL();
    } catch (const NumericalError& error) {
      EXPECT_NE(std::string(error.what()).find("column 1"), std::string::npos) << error.what();
    }
  }
}

class HessianOnBackend : public test::BackendTest {};

TEST_P(HessianOnBackend, ANewSumIsZeroThroughout) {
  for (const std::int64_t n : {0, 1, 200}) {
    const HessianSum sum =
        make_hessian_sum(backend(), std::vector<float>(static_cast<std::size_t>(n), 1.0f), 4);
    EXPECT_EQ(sum.count(), static_cast<std::size_t>(TriangularPanels::size(n)));
    for (const std::int64_t value : test::panels_of(backend(), sum)) ASSERT_EQ(value, 0);
  }
}

TEST_P(HessianOnBackend, UndoesExponentsAndMirrors) {
  const std::int64_t n = 200;  // two panels
  HessianSum sum = make_hessian_sum(backend(), std::vector<float>(static_cast<std::size_t>(n), 1.0f), 4);
  for (std::int64_t c = 0; c < n; ++c)
    sum.exponents[static_cast<std::size_t>(c)] = static_cast<int>(c % 5) - 2;
  const auto entry = [](std::int64_t i, std::int64_t j) { return i * 1000 + j + 1; };  // i <= j
  std::vector<std::int64_t> panels(sum.count());
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = i; j < n; ++j)
      panels[static_cast<std::size_t>(TriangularPanels::index(n, i, j))] = entry(i, j);
  backend().upload(sum.values(), panels.data(), panels.size() * sizeof(std::int64_t));
  const std::vector<double> h = to_hessian(backend(), sum);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      const int e = static_cast<int>(i % 5 - 2 + j % 5 - 2);
      EXPECT_EQ(h[static_cast<std::size_t>(i * n + j)],
                std::ldexp(static_cast<double>(entry(std::min(i, j), std::max(i, j))), -e) * 2 / 4);
    }
  }
}

// The tests' own way from a dense Hessian to integers loses nothing that matters.
TEST_P(HessianOnBackend, OfADenseMatrixIsThatMatrix) {
  const std::vector<double> h{3, 0.1, -2e-9, 0.1, 1e-6, 0, -2e-9, 0, 7e11};
  const HessianSum sum = test::hessian_sum_from(backend(), h, 3);
  const std::vector<double> back = to_hessian(backend(), sum);
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j)
      EXPECT_NEAR(back[i * 3 + j], h[i * 3 + j], 0x1p-53 * std::sqrt(h[i * 4] * h[j * 4])) << i << ", " << j;
  }
}

GPTQ_BACKEND_SUITE(HessianOnBackend);

}  // namespace
}  // namespace gptq
