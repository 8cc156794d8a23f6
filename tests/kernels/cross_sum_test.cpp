#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "quant/factor.h"
#include "support/reference_quality.h"
#include "support/test_backend.h"

namespace gptq {
namespace {

using reference::Array;
using test::kViews;
using test::TestMatrix;

/// Values of bf16 with columns of unlike magnitudes.
Array inputs(std::int64_t rows, std::int64_t n, unsigned seed) {
  Array x = reference::random_array(rows, n, DType::bf16, seed);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < n; ++c) x.at(r, c) *= std::exp2(static_cast<double>((c + seed) % 7) - 3);
  return x;
}

std::vector<int> exponents_of(Backend& backend, const Matrix& x) {
  const auto n = static_cast<std::size_t>(x.cols);
  const DeviceBuffer maximum = test::upload(backend, std::vector<float>(n, 0.0f));
  backend.kernels().column_max(x, maximum.as<float>());
  return hessian_exponents(test::download<float>(backend, maximum, n), x.rows);
}

class CrossSumTest : public testing::TestWithParam<test::Place>, protected test::OnBackend {
 protected:
  void SetUp() override { start(GetParam().backend, dtype()); }
  DType dtype() const { return GetParam().dtype; }

  struct Sum {
    std::vector<int> rows, cols;  ///< exponents
    std::vector<std::int64_t> values;
  };
  Sum sum_of(const Matrix& reference, const Matrix& x) const {
    Sum sum{exponents_of(backend(), reference), exponents_of(backend(), x), {}};
    const auto count = static_cast<std::size_t>(reference.cols * x.cols);
    const DeviceBuffer values = test::upload(backend(), std::vector<std::int64_t>(count, 0));
    kernels().accumulate_cross(reference, sum.rows, x, sum.cols, values.as<std::int64_t>());
    sum.values = test::download<std::int64_t>(backend(), values, count);
    return sum;
  }
};

TEST_P(CrossSumTest, AgreesWithDoublePrecision) {
  struct Shape {
    std::int64_t rows, m, n;
  };
  for (const auto& [rows, m, n] : std::vector<Shape>{{1, 1, 1},
                                                     {1, 5, 5},
                                                     {31, 64, 64},
                                                     {33, 127, 127},
                                                     {64, 128, 128},
                                                     {65, 129, 129},
                                                     {256, 192, 192},
                                                     {300, 193, 193},
                                                     {77, 460, 460},
                                                     {40, 3, 200},
                                                     {70, 200, 7},
                                                     {257, 193, 385}}) {
    const Array a = inputs(rows, m, 1), b = inputs(rows, n, 2);
    const Sum sum =
        sum_of(TestMatrix(backend(), a, dtype()).matrix(), TestMatrix(backend(), b, dtype()).matrix());
    double largest = 0;
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        double product = 0, of_a = 0, of_b = 0;
        for (std::int64_t r = 0; r < rows; ++r) {
          product += a.at(r, i) * b.at(r, j);
          of_a += a.at(r, i) * a.at(r, i);
          of_b += b.at(r, j) * b.at(r, j);
        }
        const double got =
            std::ldexp(static_cast<double>(sum.values[static_cast<std::size_t>(i * n + j)]),
                       -sum.rows[static_cast<std::size_t>(i)] - sum.cols[static_cast<std::size_t>(j)]);
        largest = std::max(largest, std::abs(got - product) / std::sqrt(of_a * of_b));
      }
    }
    EXPECT_LT(largest, test::tolerances_of(GetParam().backend).hessian) << rows << ", " << m << "x" << n;
  }
}

TEST_P(CrossSumTest, SmallIntegersAreExactAndChunksAdd) {
  for (const auto& [rows, n] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 3}, {33, 193}, {300, 130}, {65, 400}}) {
    std::mt19937 generator(7);
    Array a(rows, n), b(rows, n);
    for (double& value : a.values) value = static_cast<double>(generator() % 15) - 7;
    for (double& value : b.values) value = static_cast<double>(generator() % 15) - 7;
    for (std::int64_t c = 0; c < n; ++c) {
      a.at(0, c) = 7;  // the same exponent for all columns
      b.at(0, c) = 7;
    }
    const TestMatrix left(backend(), a, dtype()), right(backend(), b, dtype());
    const std::vector<int> exponents = exponents_of(backend(), left.matrix());
    const auto count = static_cast<std::size_t>(n * n);
    const DeviceBuffer values = test::upload(backend(), std::vector<std::int64_t>(count, 5));
    const std::int64_t first = rows * 2 / 3;
    for (const auto& [from, number] : {std::pair{std::int64_t{0}, first}, std::pair{first, rows - first}})
      kernels().accumulate_cross(left.matrix().rows_from(from, number), exponents,
                                 right.matrix().rows_from(from, number), exponents,
                                 values.as<std::int64_t>());
    const auto got = test::download<std::int64_t>(backend(), values, count);
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        double product = 0;
        for (std::int64_t r = 0; r < rows; ++r) product += a.at(r, i) * b.at(r, j);
        ASSERT_EQ(got[static_cast<std::size_t>(i * n + j)],
                  5 + static_cast<std::int64_t>(std::ldexp(product, 2 * exponents[0])))
            << rows << "x" << n << ": " << i << ", " << j;
      }
    }
  }
}

TEST_P(CrossSumTest, IsTheSameForAnyPlaceInMemory) {
  const Array a = inputs(70, 140, 3), b = inputs(70, 140, 4);
  const Sum expected =
      sum_of(TestMatrix(backend(), a, dtype()).matrix(), TestMatrix(backend(), b, dtype()).matrix());
  for (const test::View& left : kViews) {
    for (const test::View& right : kViews) {
      const Sum sum = sum_of(TestMatrix(backend(), a, dtype(), left).matrix(),
                             TestMatrix(backend(), b, dtype(), right).matrix());
      EXPECT_EQ(sum.values, expected.values);
    }
  }
}

TEST_P(CrossSumTest, MagnitudesFarFromOne) {
  // Products of these columns leave single precision's range unless they are scaled before.
  Array a = inputs(40, 70, 5), b = inputs(40, 70, 6);
  for (double& value : a.values) value *= std::ldexp(1.0, 100);
  for (double& value : b.values) value *= std::ldexp(1.0, -100);
  const Sum huge =
      sum_of(TestMatrix(backend(), a, dtype()).matrix(), TestMatrix(backend(), b, dtype()).matrix());
  for (double& value : a.values) value *= std::ldexp(1.0, -100);
  for (double& value : b.values) value *= std::ldexp(1.0, 100);
  const Sum plain =
      sum_of(TestMatrix(backend(), a, dtype()).matrix(), TestMatrix(backend(), b, dtype()).matrix());
  for (std::size_t k = 0; k < plain.values.size(); ++k)
    ASSERT_NEAR(static_cast<double>(huge.values[k]), static_cast<double>(plain.values[k]),
                std::ldexp(1.0, 44));  // of sums of about 2^60: two roundings in single precision
}

TEST_P(CrossSumTest, NoRowsAddNothing) {
  const TestMatrix none(backend(), dtype(), 0, 20);
  const std::vector<int> exponents(20, 0);
  const DeviceBuffer values = test::upload(backend(), std::vector<std::int64_t>(400, 3));
  kernels().accumulate_cross(none.matrix(), exponents, none.matrix(), exponents, values.as<std::int64_t>());
  EXPECT_EQ(test::download<std::int64_t>(backend(), values, 400), std::vector<std::int64_t>(400, 3));
}

INSTANTIATE_TEST_SUITE_P(Places, CrossSumTest, testing::ValuesIn(test::test_places()), test::name_of_place);

TEST(CrossSumOnTheCpu, AnyNumberOfThreadsGivesTheSameBits) {
  const Array a = inputs(300, 460, 7), b = inputs(300, 460, 8);
  std::vector<std::vector<std::int64_t>> sums;
  for (const int threads : {1, 2, 3}) {
    const auto backend = test::make_test_backend("cpu", threads);
    const TestMatrix left(*backend, a, DType::f32), right(*backend, b, DType::f32);
    const DeviceBuffer values = test::upload(*backend, std::vector<std::int64_t>(460 * 460, 0));
    backend->kernels().accumulate_cross(left.matrix(), exponents_of(*backend, left.matrix()), right.matrix(),
                                        exponents_of(*backend, right.matrix()), values.as<std::int64_t>());
    sums.push_back(test::download<std::int64_t>(*backend, values, 460 * 460));
    EXPECT_EQ(sums.back(), sums.front()) << threads << " threads";
  }
}

/// Sums as matrices in visiting order.
class ExpandTest : public test::BackendTest {
 protected:
  static constexpr std::int64_t kColumns = 300;

  void SetUp() override {
    BackendTest::SetUp();
    if (IsSkipped()) return;
    std::mt19937 generator(11);
    for (std::int64_t c = 0; c < n_; ++c) order_.push_back(static_cast<std::int32_t>(c));
    std::shuffle(order_.begin(), order_.end(), generator);
    dead_.assign(static_cast<std::size_t>(n_), 0);
    const Array x = reference::random_array(400, n_, DType::f32, 12);
    reference::Dense dense(x.rows, n_);
    dense.values = x.values;
    for (std::int64_t t = 0; t < x.rows; ++t) dense.at(t, 17) = 0;
    dead_[17] = 1;
    h_ = reference::hessian(dense);
    sum_ = test::hessian_sum_from(backend(), h_.values, n_);
  }
  FactorInput input(double damping) const {
    return {n_, sum_.values(), sum_.exponents, sum_.scale(), order_, dead_, damping};
  }

  std::int64_t n_ = kColumns;
  std::vector<std::int32_t> order_;
  std::vector<std::uint8_t> dead_;
  reference::Dense h_;
  HessianSum sum_;
};

TEST_P(ExpandTest, TheHessianIsThatOfTheSumRoundedOnce) {
  for (const double damping : {0.0, 0.37}) {
    const DeviceBuffer h = test::poisoned(backend(), factor_bytes(n_));
    kernels().expand_hessian(input(damping), h.as<float>());
    const auto got = test::download<float>(backend(), h, static_cast<std::size_t>(n_ * n_));
    const std::vector<double> exact = to_hessian(backend(), sum_);
    for (std::int64_t p = 0; p < n_; ++p) {
      for (std::int64_t q = 0; q < n_; ++q) {
        const std::int32_t i = order_[static_cast<std::size_t>(p)], j = order_[static_cast<std::size_t>(q)];
        double expected = exact[static_cast<std::size_t>(i * n_ + j)];
        if (i == j) expected = (i == 17 ? 1.0 : expected) + damping;
        ASSERT_EQ(got[static_cast<std::size_t>(p * n_ + q)], static_cast<float>(expected)) << p << ", " << q;
      }
    }
  }
}

TEST_P(ExpandTest, TheCrossSumIsScaled) {
  std::mt19937_64 generator(13);
  std::vector<std::int64_t> cross(static_cast<std::size_t>(n_ * n_));
  for (std::int64_t& entry : cross) entry = static_cast<std::int64_t>(generator()) / 64;
  std::vector<int> exponents;
  for (std::int64_t c = 0; c < n_; ++c) exponents.push_back(20 + static_cast<int>(c % 9));
  const DeviceBuffer values = test::upload(backend(), cross);
  const DeviceBuffer m = test::poisoned(backend(), factor_bytes(n_));
  kernels().expand_cross(input(0.5), values.as<std::int64_t>(), exponents, m.as<float>());
  const auto got = test::download<float>(backend(), m, cross.size());
  for (std::int64_t p = 0; p < n_; ++p) {
    for (std::int64_t q = 0; q < n_; ++q) {
      const std::int32_t i = order_[static_cast<std::size_t>(p)], j = order_[static_cast<std::size_t>(q)];
      const auto at = static_cast<std::size_t>(i * n_ + j);
      const double c =
          std::ldexp(static_cast<double>(cross[at]) * sum_.scale(),
                     -exponents[static_cast<std::size_t>(i)] - sum_.exponents[static_cast<std::size_t>(j)]);
      ASSERT_FLOAT_EQ(got[static_cast<std::size_t>(p * n_ + q)], static_cast<float>(c)) << p << ", " << q;
    }
  }
}

TEST_P(ExpandTest, WantedProductsKeepTheirOrder) {
  const std::int64_t rows = 9;
  std::mt19937_64 generator(14);
  std::vector<std::int64_t> cross(static_cast<std::size_t>(rows * n_));
  for (std::int64_t& entry : cross) entry = static_cast<std::int64_t>(generator()) / 64;
  std::vector<int> exponents;
  for (std::int64_t r = 0; r < rows; ++r) exponents.push_back(15 + static_cast<int>(r));
  const DeviceBuffer values = test::upload(backend(), cross);
  const DeviceBuffer wanted = test::poisoned(backend(), cross.size() * sizeof(float));
  kernels().expand_wanted(input(0.5), values.as<std::int64_t>(), rows, exponents, wanted.as<float>());
  const auto got = test::download<float>(backend(), wanted, cross.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < n_; ++c) {
      const auto at = static_cast<std::size_t>(r * n_ + c);
      const double c_rc =
          std::ldexp(static_cast<double>(cross[at]) * sum_.scale(),
                     -exponents[static_cast<std::size_t>(r)] - sum_.exponents[static_cast<std::size_t>(c)]);
      ASSERT_FLOAT_EQ(got[at], static_cast<float>(c_rc)) << r << ", " << c;
    }
  }
}

GPTQ_BACKEND_SUITE(ExpandTest);

}  // namespace
}  // namespace gptq
