#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "base/error.h"
#include "quant/hessian.h"
#include "support/reference_quant.h"
#include "support/test_backend.h"

namespace gptq {
namespace {

using reference::Array;
using test::kViews;
using test::TestMatrix;
using test::View;

/// Values of bf16 with columns of unlike magnitudes.
Array inputs(std::int64_t rows, std::int64_t n, unsigned seed) {
  Array x = reference::random_array(rows, n, DType::bf16, seed);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < n; ++c) x.at(r, c) *= std::exp2(static_cast<double>(c % 7) - 3);
  return x;
}

std::vector<float> column_max(Backend& backend, const Matrix& x, std::vector<float> start) {
  const DeviceBuffer maximum = test::upload(backend, start);
  backend.kernels().column_max(x, maximum.as<float>());
  return test::download<float>(backend, maximum, start.size());
}

HessianSum start_sum(Backend& backend, const Matrix& x) {
  return make_hessian_sum(
      backend, column_max(backend, x, std::vector<float>(static_cast<std::size_t>(x.cols), 0.0f)), x.rows);
}

void add(Backend& backend, const Matrix& x, const HessianSum& sum) {
  accumulate_hessian(backend.kernels(), x, sum.exponents, sum.values());
}

/// Largest |h - expected| in units of sqrt(h_ii h_jj).
double distance(const std::vector<double>& h, const Array& x) {
  reference::Dense dense(x.rows, x.cols);
  dense.values = x.values;
  const reference::Dense expected = reference::hessian(dense);
  double largest = 0;
  for (std::int64_t i = 0; i < expected.rows; ++i) {
    for (std::int64_t j = 0; j < expected.rows; ++j) {
      const double scale = std::sqrt(expected.at(i, i) * expected.at(j, j));
      const double difference = h[static_cast<std::size_t>(i * expected.rows + j)] - expected.at(i, j);
      if (scale > 0 && !(std::abs(difference) / scale <= largest)) largest = std::abs(difference) / scale;
    }
  }
  return largest;
}

/// The part of the panels that means something, row by row.
std::vector<std::int64_t> upper_triangle(Backend& backend, const HessianSum& sum) {
  const std::vector<std::int64_t> panels = test::panels_of(backend, sum);
  std::vector<std::int64_t> result;
  for (std::int64_t i = 0; i < sum.n; ++i)
    for (std::int64_t j = i; j < sum.n; ++j)
      result.push_back(panels[static_cast<std::size_t>(TriangularPanels::index(sum.n, i, j))]);
  return result;
}

class HessianSumTest : public testing::TestWithParam<test::Place>, protected test::OnBackend {
 protected:
  void SetUp() override { start(GetParam().backend, dtype()); }
  DType dtype() const { return GetParam().dtype; }
  TestMatrix on_device(const Array& x, View view = {}) const { return {backend(), x, dtype(), view}; }
  HessianSum sum_of(const Matrix& x) const {
    HessianSum sum = start_sum(backend(), x);
    add(backend(), x, sum);
    return sum;
  }
};

TEST_P(HessianSumTest, AgreesWithDoublePrecision) {
  // One panel, a panel's edge, several panels and tiles; rows below, at and between multiples of 256.
  for (const auto& [rows, n] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {1, 1}, {1, 5}, {31, 64}, {33, 127}, {64, 128}, {65, 129}, {256, 192}, {300, 193}, {77, 460}}) {
    const Array x = inputs(rows, n, 1);
    const HessianSum sum = sum_of(on_device(x).matrix());
    EXPECT_LT(distance(to_hessian(backend(), sum), x), test::tolerances_of(GetParam().backend).hessian)
        << rows << "x" << n;
  }
}

TEST_P(HessianSumTest, SmallIntegersAreExact) {
  // Products and sums below 2^24 are exact in single precision, whatever their order.
  Array x(500, 200);
  std::mt19937 generator(9);
  for (double& value : x.values) value = static_cast<double>(generator() % 15) - 7;
  for (std::int64_t c = 0; c < 200; ++c) x.at(0, c) = 7;  // the same exponent for all columns
  const HessianSum sum = sum_of(on_device(x).matrix());
  const std::vector<std::int64_t> panels = test::panels_of(backend(), sum);
  for (std::int64_t i = 0; i < 200; ++i) {
    for (std::int64_t j = i; j < 200; ++j) {
      double product = 0;
      for (std::int64_t r = 0; r < 500; ++r) product += x.at(r, i) * x.at(r, j);
      ASSERT_EQ(panels[static_cast<std::size_t>(TriangularPanels::index(200, i, j))],
                static_cast<std::int64_t>(std::ldexp(product, 2 * sum.exponents[0])))
          << i << ", " << j;
    }
  }
}

TEST_P(HessianSumTest, ChunksMayComeInAnyOrderFromAnyRank) {
  const std::int64_t n = 250;
  const TestMatrix x = on_device(inputs(700, n, 2));
  const std::vector<std::int64_t> chunks{0, 100, 356, 356, 500, 700};  // one of them empty
  const HessianSum forward = start_sum(backend(), x.matrix());
  const HessianSum ranks[2] = {start_sum(backend(), x.matrix()), start_sum(backend(), x.matrix())};
  const auto chunk = [&](std::size_t c) {
    return x.matrix().rows_from(chunks[c], chunks[c + 1] - chunks[c]);
  };
  for (std::size_t c = 0; c + 1 < chunks.size(); ++c) add(backend(), chunk(c), forward);
  for (std::size_t c = chunks.size() - 1; c-- > 0;) add(backend(), chunk(c), ranks[c % 2]);
  const auto expected = upper_triangle(backend(), forward);
  const auto first = upper_triangle(backend(), ranks[0]), second = upper_triangle(backend(), ranks[1]);
  for (std::size_t k = 0; k < expected.size(); ++k) ASSERT_EQ(expected[k], first[k] + second[k]);
}

TEST_P(HessianSumTest, RangesMayComeChunkByChunkOrOneAfterTheOther) {
  const std::int64_t n = 700;  // four panels, the last of 124 rows
  const Array all = inputs(400, n, 7);
  const TestMatrix x = on_device(all);
  const Matrix chunks[] = {x.matrix().rows_from(0, 300), x.matrix().rows_from(300, 100)};
  const PanelRange upper{0, 2}, lower{2, 4};
  const HessianSum by_chunk = start_sum(backend(), x.matrix());
  const HessianSum by_range = start_sum(backend(), x.matrix());
  const auto add_range = [&](const Matrix& chunk, PanelRange range, const HessianSum& sum) {
    kernels().accumulate_hessian(chunk, sum.exponents, range, sum.values());
  };
  for (const Matrix& chunk : chunks)
    for (const PanelRange& range : {upper, lower}) add_range(chunk, range, by_chunk);

  for (const Matrix& chunk : chunks) add_range(chunk, lower, by_range);
  const auto lower_only = test::panels_of(backend(), by_range);
  const auto border = lower_only.begin() + TriangularPanels::offset(n, lower.first);
  EXPECT_EQ(std::count(lower_only.begin(), border, 0), border - lower_only.begin());
  for (const Matrix& chunk : chunks) add_range(chunk, upper, by_range);
  add_range(chunks[0], {2, 2}, by_range);  // of nothing
  const auto both = test::panels_of(backend(), by_range);
  EXPECT_TRUE(std::equal(border, lower_only.end(), both.begin() + (border - lower_only.begin())));

  EXPECT_EQ(upper_triangle(backend(), by_range), upper_triangle(backend(), by_chunk));
  EXPECT_LT(distance(to_hessian(backend(), by_range), all), test::tolerances_of(GetParam().backend).hessian);
}

TEST_P(HessianSumTest, RangesCoverAllPanelsInOrderAndEvenly) {
  for (const std::int64_t n : {1, 192, 193, 2047, 2048, 3072, 4096, 8191, 8192, 14336, 53248}) {
    const std::vector<PanelRange> ranges = kernels().hessian_ranges(n);
    ASSERT_FALSE(ranges.empty());
    const auto count = static_cast<std::int64_t>(ranges.size());
    std::int64_t end = 0, total = 0;
    for (const PanelRange& range : ranges) {
      EXPECT_EQ(range.first, end) << n;
      EXPECT_GT(range.end, range.first) << n;
      EXPECT_LT(TriangularPanels::size(n, range) * count * 2, TriangularPanels::size(n) * 3) << n;
      total += TriangularPanels::size(n, range);
      end = range.end;
    }
    EXPECT_EQ(end, TriangularPanels::panels(n)) << n;
    EXPECT_EQ(total, TriangularPanels::size(n)) << n;
    if (n < 2048) {
      EXPECT_EQ(count, 1) << n;
    }
    if (GetParam().backend == std::string("cpu")) {
      EXPECT_EQ(count, 1) << n;
    }
  }
}

TEST_P(HessianSumTest, TheSameChunkGivesTheSameBits) {
  for (const std::int64_t n : {128, 131}) {
    const Array x = inputs(260, n, 3);
    const HessianSum expected = sum_of(on_device(x).matrix());
    const auto panels = test::panels_of(backend(), expected);
    sum_of(on_device(inputs(17, 300, 4)).matrix());
    for (const View view : {View{0, 0, 1}, kViews[1], kViews[2]}) {
      const TestMatrix elsewhere = on_device(x, view);
      const HessianSum sum = sum_of(elsewhere.matrix());
      EXPECT_EQ(sum.exponents, expected.exponents);
      EXPECT_EQ(upper_triangle(backend(), sum), upper_triangle(backend(), expected)) << n << " columns";
    }
    const auto fresh = test::make_test_backend(GetParam().backend, 3);
    const TestMatrix copy(*fresh, x, dtype());
    const HessianSum sum = start_sum(*fresh, copy.matrix());
    add(*fresh, copy.matrix(), sum);
    EXPECT_EQ(test::panels_of(*fresh, sum), panels);
  }
}

TEST_P(HessianSumTest, ExtremeColumnsStayExact) {
  Array x = inputs(300, 40, 5);
  for (std::int64_t r = 0; r < 300; ++r) {
    for (std::int64_t c = 0; c < 40; ++c) {
      const double factor = c == 0 ? 1e-30 : c == 1 ? 1e30 : c == 2 ? 0.0 : 1.0;
      x.at(r, c) = to_float(to_bf16(static_cast<float>(x.at(r, c) * factor)));
      if (c == 3 && r == 17) x.at(r, c) = 65536;
    }
  }
  const HessianSum sum = sum_of(on_device(x).matrix());
  const std::vector<double> h = to_hessian(backend(), sum);
  EXPECT_LT(distance(h, x), 1e-5);
  EXPECT_EQ(h[2 * 40 + 2], 0);
  EXPECT_EQ(h[2 * 40 + 5], 0);
}

TEST_P(HessianSumTest, TheDiagonalIsThatOfTheHessian) {
  const HessianSum sum = sum_of(on_device(inputs(50, 400, 6)).matrix());
  std::vector<double> diagonal(400, NAN);
  backend().kernels().hessian_diagonal(sum.values(), sum.exponents, sum.scale(), diagonal);
  const std::vector<double> h = to_hessian(backend(), sum);
  for (std::size_t c = 0; c < 400; ++c) EXPECT_DOUBLE_EQ(diagonal[c], h[c * 400 + c]);
}

TEST_P(HessianSumTest, ColumnMaxFindsTheLargestMagnitudeAndNan) {
  for (const std::int64_t n : {1, 33, 600}) {
    for (const View view : kViews) {
      Array x = inputs(33, n, 6);
      std::vector<float> expected(static_cast<std::size_t>(n), 0.25f);
      for (std::size_t k = 0; k < x.values.size(); ++k) {
        float& largest = expected[k % expected.size()];
        largest = std::max(largest, static_cast<float>(std::abs(x.values[k])));
      }
      const std::vector<float> quarter(static_cast<std::size_t>(n), 0.25f);
      EXPECT_EQ(column_max(backend(), on_device(x, view).matrix(), quarter), expected);

      x.at(5, n / 2) = -NAN;
      const auto maximum = column_max(backend(), on_device(x, view).matrix(), quarter);
      for (std::int64_t c = 0; c < n; ++c)
        EXPECT_EQ(std::isnan(maximum[static_cast<std::size_t>(c)]), c == n / 2) << "column " << c;
      EXPECT_THROW(make_hessian_sum(backend(), maximum, 33), NumericalError);
    }
  }
}

TEST_P(HessianSumTest, ColumnMaxOfManyRowsAndOfNone) {
  Array x(5000, 3);
  x.at(4999, 0) = -2;
  x.at(0, 1) = INFINITY;
  x.at(2500, 2) = 1e-45;
  const auto maximum = column_max(backend(), on_device(x).matrix(), {0, 0, 0});
  EXPECT_EQ(maximum[0], 2.0f);
  EXPECT_EQ(maximum[1], INFINITY);
  EXPECT_EQ(maximum[2], dtype() == DType::f32 ? 1e-45f : 0.0f);
  EXPECT_EQ(column_max(backend(), TestMatrix(backend(), dtype(), 0, 3).matrix(), {1, 0, 3}),
            (std::vector<float>{1, 0, 3}));
}

TEST_P(HessianSumTest, NaNFromEarlierRowsStays) {
  EXPECT_TRUE(std::isnan(column_max(backend(), on_device(inputs(3, 2, 1)).matrix(), {NAN, 0})[0]));
}

INSTANTIATE_TEST_SUITE_P(Hessian, HessianSumTest, testing::ValuesIn(test::test_places()),
                         test::name_of_place);

class CpuHessianSumTest : public HessianSumTest {};

TEST_P(CpuHessianSumTest, AnyNumberOfThreadsGivesTheSameBits) {
  const TestMatrix x = on_device(inputs(513, 800, 3));
  const auto one = test::make_test_backend("cpu", 1);
  const HessianSum expected = start_sum(*one, x.matrix());
  add(*one, x.matrix(), expected);
  for (const int threads : {2, 3}) {
    const auto many = test::make_test_backend("cpu", threads);
    const HessianSum sum = start_sum(*many, x.matrix());
    EXPECT_EQ(sum.exponents, expected.exponents);
    add(*many, x.matrix(), sum);
    EXPECT_EQ(test::panels_of(*many, sum), test::panels_of(*one, expected)) << threads << " threads";
  }
}

INSTANTIATE_TEST_SUITE_P(Hessian, CpuHessianSumTest,
                         testing::Values(test::Place{"cpu", DType::f32}, test::Place{"cpu", DType::bf16}),
                         test::name_of_place);

}  // namespace
}  // namespace gptq
