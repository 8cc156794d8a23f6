#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "support/test_backend.h"

namespace gptq {
namespace {

using reference::Array;
using test::TestMatrix;

/// Integers of -7..7 times a power of two that differs from column to column: every sum of their products is
/// exact in single precision, in any order, so every backend must give the same integers.
Array integers(std::int64_t rows, std::int64_t n) {
  Array x(rows, n);
  std::mt19937 generator(static_cast<unsigned>(rows + n));
  for (double& value : x.values) value = static_cast<double>(generator() % 15) - 7;
  for (std::int64_t c = 0; c < n; ++c) x.at(0, c) = 7;  // no column of zeros
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < n; ++c) x.at(r, c) = std::ldexp(x.at(r, c), static_cast<int>(c % 5));
  return x;
}

std::vector<std::int64_t> exact_panels(const Array& x, const std::vector<int>& exponents) {
  std::vector<std::int64_t> panels(static_cast<std::size_t>(TriangularPanels::size(x.cols)));
  for (std::int64_t i = 0; i < x.cols; ++i) {
    for (std::int64_t j = i; j < x.cols; ++j) {
      double product = 0;
      for (std::int64_t r = 0; r < x.rows; ++r) product += x.at(r, i) * x.at(r, j);
      const int shift = exponents[static_cast<std::size_t>(i)] + exponents[static_cast<std::size_t>(j)];
      panels[static_cast<std::size_t>(TriangularPanels::index(x.cols, i, j))] =
          static_cast<std::int64_t>(std::ldexp(product, shift));
    }
  }
  return panels;
}

class HessianExactTest : public testing::TestWithParam<test::Place>, protected test::OnBackend {
 protected:
  void SetUp() override { start(GetParam().backend, GetParam().dtype); }
};

TEST_P(HessianExactTest, SumsOfIntegersAreTheSameOnEveryBackend) {
  // Columns below, at and beyond the edges of panels (192) and tiles (128, 256, 384); rows likewise (32,
  // 256).
  for (const auto& [rows, n] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {1, 3}, {33, 193}, {70, 256}, {513, 130}, {31, 385}, {65, 584}, {34, 1000}}) {
    const Array x = integers(rows, n);
    const TestMatrix chunk(backend(), x, GetParam().dtype);
    const auto columns = static_cast<std::size_t>(n);
    const DeviceBuffer maximum = test::upload(backend(), std::vector<float>(columns, 0.0f));
    kernels().column_max(chunk.matrix(), maximum.as<float>());
    const HessianSum sum =
        make_hessian_sum(backend(), test::download<float>(backend(), maximum, columns), rows);

    // In two chunks: the second adds to the first.
    const std::int64_t first = rows * 2 / 3;
    accumulate_hessian(kernels(), chunk.matrix().rows_from(0, first), sum.exponents, sum.values());
    accumulate_hessian(kernels(), chunk.matrix().rows_from(first, rows - first), sum.exponents, sum.values());

    const std::vector<std::int64_t> got = test::panels_of(backend(), sum);
    const std::vector<std::int64_t> expected = exact_panels(x, sum.exponents);
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = i; j < n; ++j) {
        const auto at = static_cast<std::size_t>(TriangularPanels::index(n, i, j));
        ASSERT_EQ(got[at], expected[at]) << rows << "x" << n << ": " << i << ", " << j;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Places, HessianExactTest, testing::ValuesIn(test::test_places()),
                         test::name_of_place);

}  // namespace
}  // namespace gptq
