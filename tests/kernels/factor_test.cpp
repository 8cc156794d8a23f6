#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "quant/hessian.h"
#include "support/test_backend.h"

namespace gptq {
namespace {

class FactorKernelTest : public test::BackendTest {
 protected:
  struct Factored {
    bool positive_definite = false;
    std::vector<float> r;
  };
  struct Request {
    std::vector<std::int32_t> order;
    std::vector<std::uint8_t> dead;
    double damping = 0;
    double scale = 1;
    explicit Request(std::int64_t n) : order(static_cast<std::size_t>(n)), dead(order.size(), 0) {
      std::iota(order.begin(), order.end(), 0);
    }
  };

  static Factored factor(Backend& place, const HessianSum& sum, const Request& request) {
    const auto count = static_cast<std::size_t>(sum.n * sum.n);
    const DeviceBuffer r = test::poisoned(place, count * sizeof(float));
    const FactorInput input{sum.n,         sum.values(), sum.exponents,  request.scale,
                            request.order, request.dead, request.damping};
    Factored result;
    result.positive_definite = place.kernels().factor(input, r.as<float>());
    result.r = test::download<float>(place, r, count);
    return result;
  }
};

/// XᵀX of 2n rows whose columns have unlike magnitudes.
std::vector<double> random_hessian(std::int64_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<double> x(static_cast<std::size_t>(2 * n * n)), h(static_cast<std::size_t>(n * n), 0.0);
  for (std::size_t k = 0; k < x.size(); ++k)
    x[k] = normal(generator) * std::exp2(static_cast<double>(k % static_cast<std::size_t>(n) % 9) - 4);
  for (std::int64_t t = 0; t < 2 * n; ++t)
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < n; ++j)
        h[static_cast<std::size_t>(i * n + j)] +=
            x[static_cast<std::size_t>(t * n + i)] * x[static_cast<std::size_t>(t * n + j)];
  return h;
}

TEST_P(FactorKernelTest, MultipliesBackToTheDampedHessianInVisitingOrder) {
  for (const std::int64_t n : {1, 2, 31, 70, 192, 193, 260}) {
    SCOPED_TRACE(n);
    std::vector<double> h = random_hessian(n, 1);
    Request request(n);
    std::mt19937 generator(7);
    std::shuffle(request.order.begin(), request.order.end(), generator);
    if (n > 1) {
      request.dead[static_cast<std::size_t>(n / 2)] = 1;
      for (std::int64_t i = 0; i < n; ++i)
        h[static_cast<std::size_t>(n / 2 * n + i)] = h[static_cast<std::size_t>(i * n + n / 2)] = 0;
    }
    const HessianSum sum = test::hessian_sum_from(backend(), h, n);
    request.damping = 0.25;
    request.scale = 3;
    const Factored got = factor(backend(), sum, request);
    ASSERT_TRUE(got.positive_definite);
    const auto expected = [&](std::int64_t p, std::int64_t q) {
      const std::int32_t i = request.order[static_cast<std::size_t>(p)];
      const std::int32_t j = request.order[static_cast<std::size_t>(q)];
      const double entry = 3 * h[static_cast<std::size_t>(i * n + j)];
      if (p != q) return entry;
      return (request.dead[static_cast<std::size_t>(i)] != 0 ? 1 : entry) + request.damping;
    };
    for (std::int64_t p = 0; p < n; ++p) {
      for (std::int64_t q = 0; q < n; ++q) {
        if (q < p) {
          ASSERT_EQ(got.r[static_cast<std::size_t>(p * n + q)], 0) << p << ", " << q;
          continue;
        }
        double product = 0;
        for (std::int64_t k = q; k < n; ++k)
          product += static_cast<double>(got.r[static_cast<std::size_t>(p * n + k)]) *
                     static_cast<double>(got.r[static_cast<std::size_t>(q * n + k)]);
        ASSERT_NEAR(product, expected(p, q),
                    test::tolerances_of(GetParam()).factor * std::sqrt(expected(p, p) * expected(q, q)))
            << p << ", " << q;
      }
    }
  }
}

// A dead column's off-diagonal entries are zero in a real sum; its diagonal counts as one.
TEST_P(FactorKernelTest, DeadColumnsStandAlone) {
  const HessianSum sum = test::hessian_sum_from(backend(), {4, 0, 0, 0, 0, 0, 0, 0, 2}, 3);
  Request request(3);
  request.dead = {0, 1, 0};
  const Factored got = factor(backend(), sum, request);
  ASSERT_TRUE(got.positive_definite);
  EXPECT_EQ(got.r, (std::vector<float>{2, 0, 0, 0, 1, 0, 0, 0, std::sqrt(2.0f)}));
}

TEST_P(FactorKernelTest, RefusesWhatIsNotPositiveDefinite) {
  const HessianSum sum = test::hessian_sum_from(backend(), {1, 3, 3, 1}, 2);
  Request request(2);
  EXPECT_FALSE(factor(backend(), sum, request).positive_definite);
  request.damping = 1.99;
  EXPECT_FALSE(factor(backend(), sum, request).positive_definite);
  request.damping = 2.01;
  EXPECT_TRUE(factor(backend(), sum, request).positive_definite);

  // ... wherever in a larger matrix.
  const std::int64_t n = 200;
  for (const std::int64_t place : {0, 100, 198}) {
    std::vector<double> h(static_cast<std::size_t>(n * n), 0.0);
    for (std::int64_t i = 0; i < n; ++i) h[static_cast<std::size_t>(i * n + i)] = 1;
    h[static_cast<std::size_t>(place * n + place + 1)] =
        h[static_cast<std::size_t>((place + 1) * n + place)] = 2;
    EXPECT_FALSE(factor(backend(), test::hessian_sum_from(backend(), h, n), Request(n)).positive_definite);
  }
}

TEST_P(FactorKernelTest, RefusesPivotsThatAreNoNormalFloats) {
  for (const double tiny : {1e-78, 0.0}) {
    const HessianSum sum = test::hessian_sum_from(backend(), {1, 0, 0, tiny}, 2);
    EXPECT_FALSE(factor(backend(), sum, Request(2)).positive_definite) << tiny;
  }
  const HessianSum huge = test::hessian_sum_from(backend(), {1, 0, 0, 2e77}, 2);
  EXPECT_FALSE(factor(backend(), huge, Request(2)).positive_definite);
  const HessianSum small = test::hessian_sum_from(backend(), {1, 0, 0, 1e-60}, 2);
  EXPECT_TRUE(factor(backend(), small, Request(2)).positive_definite);
}

// Columns of 1e-15 and 1e15 at once: only double precision holds their products with room to spare.
TEST_P(FactorKernelTest, HoldsColumnsOfVeryUnlikeMagnitudes) {
  const std::int64_t n = 40;
  std::vector<double> h = random_hessian(n, 3);
  const auto unit = [](std::int64_t c) { return std::pow(10.0, static_cast<double>(c % 31) - 15); };
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j) h[static_cast<std::size_t>(i * n + j)] *= unit(i) * unit(j);
  const Factored got = factor(backend(), test::hessian_sum_from(backend(), h, n), Request(n));
  ASSERT_TRUE(got.positive_definite);
  for (std::int64_t p = 0; p < n; ++p) {
    double product = 0;
    for (std::int64_t k = p; k < n; ++k)
      product += std::pow(static_cast<double>(got.r[static_cast<std::size_t>(p * n + k)]), 2);
    EXPECT_NEAR(product / h[static_cast<std::size_t>(p * n + p)], 1, 1e-6);
  }
}

TEST_P(FactorKernelTest, GivesTheSameBitsAgain) {
  const std::int64_t n = 150;
  const std::vector<double> h = random_hessian(n, 4);
  const HessianSum sum = test::hessian_sum_from(backend(), h, n);
  const Factored first = factor(backend(), sum, Request(n));
  factor(backend(), test::hessian_sum_from(backend(), random_hessian(80, 5), 80), Request(80));
  EXPECT_EQ(factor(backend(), sum, Request(n)).r, first.r);
  const auto fresh = test::make_test_backend(GetParam(), 3);
  EXPECT_EQ(factor(*fresh, test::hessian_sum_from(*fresh, h, n), Request(n)).r, first.r);
}

TEST_P(FactorKernelTest, OfNoColumnsIsNoWork) {
  EXPECT_TRUE(factor(backend(), test::hessian_sum_from(backend(), {}, 0), Request(0)).positive_definite);
}

GPTQ_BACKEND_SUITE(FactorKernelTest);

}  // namespace
}  // namespace gptq
