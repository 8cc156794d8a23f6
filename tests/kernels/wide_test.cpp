// Layers of 53,248 inputs (Llama 405B's down_proj): n² passes 2^31. Arrays lie in memory that takes room only
// where it is written, so that kernels that touch a part of them run anywhere. With GPTQ_HPC_WIDE=1 also a
// solve on all 53,248 columns and a whole factorization of 40,000 (GPTQ_HPC_WIDE_N: another number).

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>

#include "backend/backend.h"
#include "quant/quantized_layer.h"
#include "support/sparse_memory.h"

namespace gptq {
namespace {

using test::RepeatedMemory;
using test::SparseMemory;

constexpr std::int64_t kWide = 53'248;

std::size_t bytes_of_sum(std::int64_t n) {
  return static_cast<std::size_t>(TriangularPanels::size(n)) * sizeof(std::int64_t);
}

TEST(WideLayers, HessianPanelsAreSummedWhereTheyLie) {
  const auto backend = make_backend({"cpu", 1});
  const SparseMemory memory(bytes_of_sum(kWide));
  auto* const sum = memory.as<std::int64_t>();
  constexpr std::int64_t kRows = 5;
  HostTensor x = make_tensor(DType::f32, {kRows, kWide});
  std::mt19937 generator(3);
  for (std::int64_t i = 0; i < x.elements(); ++i)
    x.matrix().row<float>(0)[i] = static_cast<float>(static_cast<int>(generator() % 15) - 7);
  std::vector<int> exponents(kWide);
  for (std::size_t c = 0; c < exponents.size(); ++c) exponents[c] = static_cast<int>(c % 4);

  const std::int64_t panels = TriangularPanels::panels(kWide);
  const std::vector<PanelRange> ranges{{138, 139}, {panels - 2, panels}};
  ASSERT_GT(TriangularPanels::offset(kWide, 138) * 8, std::int64_t{1} << 32);
  for (const PanelRange& range : ranges) {
    backend->kernels().accumulate_hessian(x.matrix(), exponents, range, sum);
    std::int64_t wrong = 0;
    for (std::int64_t i = range.first * TriangularPanels::kPanel;
         i < std::min(kWide, range.end * TriangularPanels::kPanel); ++i) {
      for (std::int64_t j = i; j < kWide; ++j) {
        std::int64_t product = 0;
        for (std::int64_t r = 0; r < kRows; ++r) {
          const float* const row = x.matrix().row<float>(r);
          product += static_cast<std::int64_t>(row[i]) * static_cast<std::int64_t>(row[j]);
        }
        wrong += sum[TriangularPanels::index(kWide, i, j)] != product << (i % 4 + j % 4);
      }
    }
    EXPECT_EQ(wrong, 0) << "panels from " << range.first;
  }
}

TEST(WideLayers, DiagonalIsReadWhereItLies) {
  const auto backend = make_backend({"cpu", 1});
  const SparseMemory memory(bytes_of_sum(kWide));
  const std::vector<int> exponents(kWide, 2);
  const std::vector<std::int64_t> some{0, 191, 192, 26'000, 46'341, kWide - 1};
  for (const std::int64_t i : some)
    memory.as<std::int64_t>()[TriangularPanels::index(kWide, i, i)] = 16 * (i + 1);
  std::vector<double> diagonal(kWide, -1);
  backend->kernels().hessian_diagonal(memory.as<std::int64_t>(), exponents, 0.5, diagonal);
  for (std::int64_t i = 0; i < kWide; ++i) {
    const bool set = std::find(some.begin(), some.end(), i) != some.end();
    ASSERT_EQ(diagonal[static_cast<std::size_t>(i)], set ? 0.5 * static_cast<double>(i + 1) : 0.0) << i;
  }
}

/// λI + c·v·vᵀ factored as R·Rᵀ, R upper triangular: eliminating the last column leaves a matrix of the same
/// form with c·λ / (λ + c·v²) in place of c. Its sum is one integer over and over: 16 MB of memory for any n.
class RankOne {
 public:
  static constexpr double kDamping = 10;
  static constexpr std::int64_t kSum = 3 << 20;

  explicit RankOne(std::int64_t n)
      : n_(n), sum_(bytes_of_sum(n), kSum), order_(static_cast<std::size_t>(n)), dead_(order_.size(), 0) {
    for (std::int64_t i = 0; i < n; ++i) exponents_.push_back(10 + static_cast<int>(i * 7 % 5));
    std::iota(order_.begin(), order_.end(), 0);
    std::shuffle(order_.begin(), order_.end(), std::mt19937(5));
  }

  FactorInput input() const {
    return {n_, sum_.as<std::int64_t>(), exponents_, 1.0, order_, dead_, kDamping};
  }

  /// The largest relative error of an entry of R; infinite where the lower triangle is not zero.
  double error_of(const float* r) const {
    std::vector<double> v(order_.size()), pivot(order_.size()), c(order_.size());
    double left = static_cast<double>(kSum);
    for (std::size_t p = order_.size(); p-- > 0;) {
      v[p] = std::ldexp(1.0, -exponents_[static_cast<std::size_t>(order_[p])]);
      pivot[p] = std::sqrt(kDamping + left * v[p] * v[p]);
      c[p] = left;
      left *= kDamping / (kDamping + left * v[p] * v[p]);
    }
    double worst = 0;
    for (std::size_t i = 0; i < order_.size(); ++i) {
      const float* const row = r + static_cast<std::int64_t>(i) * n_;
      if (std::any_of(row, row + i, [](float low) { return low != 0; })) return INFINITY;
      worst = std::max(worst, error(row[i], pivot[i]));
      for (std::size_t p = i + 1; p < order_.size(); ++p)
        worst = std::max(worst, error(row[p], c[p] * v[i] * v[p] / pivot[p]));
    }
    return worst;
  }

 private:
  static double error(float value, double expected) {
    const double difference = std::abs(static_cast<double>(value) - expected) / std::abs(expected);
    return std::isnan(difference) ? INFINITY : difference;
  }

  std::int64_t n_;
  RepeatedMemory sum_;
  std::vector<int> exponents_;
  std::vector<std::int32_t> order_;
  std::vector<std::uint8_t> dead_;
};

double factor_error(std::int64_t n, double& seconds) {
  const auto backend = make_backend({"cpu", 1});
  const RankOne matrix(n);
  const test::FileMemory r(static_cast<std::size_t>(n * n) * sizeof(float));
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(backend->kernels().factor(matrix.input(), r.as<float>()));
  seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return matrix.error_of(r.as<float>());
}

TEST(WideLayers, FactorOfAMatrixWithKnownFactor) {
  double seconds = 0;
  for (const std::int64_t n : {1, 2, 193, 700}) EXPECT_LT(factor_error(n, seconds), 1e-6) << n;
}

// The same where it is large: n²·4 bytes of memory for the half of the matrix in double that is touched (6.4
// GB at 40,000), as many in a file for R, n³/3 operations of one thread.
TEST(WideLayers, FactorOfFortyThousandColumns) {
  if (!test::wide_tests_wanted())
    GTEST_SKIP() << "takes 6.4 GB of memory, as much under $TMPDIR, and minutes; set GPTQ_HPC_WIDE=1";
  const std::int64_t n = test::environment_number("GPTQ_HPC_WIDE_N", 40'000);
  double seconds = 0;
  const double error = factor_error(n, seconds);
  std::printf("%ld columns factored in %.1f s (%.1f GFLOP/s), largest relative error %.2g\n",
              static_cast<long>(n), seconds, std::pow(static_cast<double>(n), 3) / 3e9 / seconds, error);
  EXPECT_LT(error, 1e-6);
}

/// Natural order, groups of 128, all columns of weight one.
SolveColumns plain_columns(std::int64_t n) {
  SolveColumns columns;
  columns.n = n;
  columns.groups = n / 128;
  columns.order.resize(static_cast<std::size_t>(n));
  std::iota(columns.order.begin(), columns.order.end(), 0);
  for (std::int64_t c = 0; c < n; ++c) columns.group_of.push_back(static_cast<std::int32_t>(c / 128));
  columns.weight.assign(static_cast<std::size_t>(n), 1.0f);
  columns.dead.assign(static_cast<std::size_t>(n), 0);
  return columns;
}

/// Where R is the identity but for one entry (i, j), column j takes over R_ij times the error of column i,
/// and every other column is rounded to nearest: so the codes are those of weights with that already added.
void expect_far_coupling(std::int64_t n, std::int64_t i, std::int64_t j) {
  const auto backend = make_backend({"cpu", 1});
  const SparseMemory memory(static_cast<std::size_t>(n * n) * sizeof(float));
  auto* const r = memory.as<float>();
  for (std::int64_t p = 0; p < n; ++p) r[p * n + p] = 1;
  r[i * n + j] = 8;
  constexpr std::int64_t kRows = 3;
  HostTensor w = make_tensor(DType::f32, {kRows, n});
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  for (std::int64_t k = 0; k < w.elements(); ++k) w.matrix().row<float>(0)[k] = normal(generator);
  const SolveColumns columns = plain_columns(n);
  const auto solve = [&](const float* factor) {
    const RowsToSolve rows{w.matrix()};
    return backend->kernels().solve_rows({&rows, 1}, columns, factor, 0, SolveOptions())[0];
  };
  const QuantizedRows solved = solve(r), nearest = solve(nullptr);
  const HostTensor q =
      dequantize(QuantizedWeights{kRows, n, columns.groups, nearest.codes.data(), nearest.scales.data(),
                                  nearest.zeros.data(), columns.group_of.data()});
  for (std::int64_t row = 0; row < kRows; ++row) {
    float* const weights = w.matrix().row<float>(row);
    weights[j] += 8 * (weights[i] - q.matrix().row<float>(row)[i]);
  }
  const QuantizedRows expected = solve(nullptr);
  EXPECT_EQ(solved.codes, expected.codes);
  EXPECT_NE(solved.codes, nearest.codes);
  for (std::size_t k = 0; k < expected.scales.size(); ++k)
    ASSERT_EQ(solved.scales[k].bits, expected.scales[k].bits) << k;
}

TEST(WideLayers, ErrorsReachFarColumns) {
  expect_far_coupling(1024, 200, 900);
}

TEST(WideLayers, ErrorsReachColumnsBeyondTwoToTheThirtyOne) {
  if (!test::wide_tests_wanted()) GTEST_SKIP() << "takes half a minute; set GPTQ_HPC_WIDE=1";
  static_assert(50'000 * kWide + 53'001 > std::int64_t{1} << 31);
  expect_far_coupling(kWide, 50'000, 53'001);
}

}  // namespace
}  // namespace gptq
