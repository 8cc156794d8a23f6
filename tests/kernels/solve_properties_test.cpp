#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "kernels/solve_fixture.h"

namespace gptq::solve_test {
namespace {

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

class SolveProperties : public test::BackendTest {};

TEST_P(SolveProperties, BeatsRoundToNearest) {
  const Layer layer = make_layer(64, 192, 13);
  for (const QuantizationSection& section : unlike_sections()) {
    const Solved solved = solve(backend(), layer, section);
    const SolveColumns& columns = solved.factor.columns;
    const QuantizedRows nearest = round_to_nearest(backend(), layer, columns, section);
    EXPECT_LT(sum(solved.rows.output_error),
              0.8 * reference::quadratic_form(difference(layer, columns, nearest), layer.hessian));
  }
}

TEST_P(SolveProperties, ReportsTheNormsOfTheirDefinition) {
  const Layer layer = make_layer(40, 300, 14);
  const Solved solved = solve(backend(), layer, section_of(4, 128, true, kOrderModes[2], "weighted"));
  const reference::Dense d = difference(layer, solved.factor.columns, solved.rows);
  double weight_error = 0, weight_norm = 0;
  for (std::size_t k = 0; k < d.values.size(); ++k) {
    weight_error += d.values[k] * d.values[k];
    weight_norm += layer.weight.values[k] * layer.weight.values[k];
  }
  EXPECT_NEAR(sum(solved.rows.weight_error) / weight_error, 1, 1e-5);
  EXPECT_NEAR(sum(solved.rows.weight_norm) / weight_norm, 1, 1e-5);
  EXPECT_NEAR(sum(solved.rows.output_norm) / reference::quadratic_form(layer.weight, layer.hessian), 1, 1e-4);
  EXPECT_NEAR(sum(solved.rows.output_error) / reference::quadratic_form(d, layer.hessian), 1, 1e-3);
}

TEST_P(SolveProperties, DeadColumnsGetTheZeroPoint) {
  Layer layer = make_layer(10, 140, 15);
  for (const std::int64_t dead : {0, 77, 139}) {
    for (std::int64_t c = 0; c < 140; ++c) layer.hessian.at(dead, c) = layer.hessian.at(c, dead) = 0;
  }
  for (const QuantizationSection& section : unlike_sections()) {
    const Solved solved = solve(backend(), layer, section);
    EXPECT_FALSE(solved.factor.fallback);
    const SolveColumns& columns = solved.factor.columns;
    for (std::int64_t row = 0; row < 10; ++row) {
      for (const std::int64_t dead : {0, 77, 139}) {
        const std::int32_t group = columns.group_of[static_cast<std::size_t>(dead)];
        EXPECT_EQ(solved.rows.codes[static_cast<std::size_t>(row * 140 + dead)],
                  solved.rows.zeros[static_cast<std::size_t>(row * columns.groups + group)]);
      }
    }
    const double exact =
        reference::quadratic_form(difference(layer, solved.factor.columns, solved.rows), layer.hessian);
    EXPECT_NEAR(sum(solved.rows.output_error) / exact, 1, 1e-3);
  }
}

TEST_P(SolveProperties, AllColumnsDeadAndRowsOfZeros) {
  Layer layer = make_layer(3, 40, 16);
  std::fill(layer.hessian.values.begin(), layer.hessian.values.end(), 0.0);
  const Solved solved = solve(backend(), layer, section_of(4, 16, false, kOrderModes[2], "weighted"));
  for (std::size_t k = 0; k < solved.rows.codes.size(); ++k) EXPECT_EQ(solved.rows.codes[k], 8);
  for (const f16 scale : solved.rows.scales) EXPECT_GT(to_float(scale), 0);
  EXPECT_EQ(sum(solved.rows.output_error), 0);
}

TEST_P(SolveProperties, AsymmetricZerosAreAtLeastOneAndLoseNothing) {
  Layer layer = make_layer(5, 64, 17);
  for (double& w : layer.weight.values)
    w = std::abs(w) + 0.01;  // all positive: the textbook's zero would be 0
  const QuantizationSection section = section_of(4, 1, false, kOrderModes[0], "minmax");
  const Solved solved = solve(backend(), layer, section);
  for (const std::uint8_t zero : solved.rows.zeros) EXPECT_EQ(zero, 1);
  const reference::Dense d = difference(layer, solved.factor.columns, solved.rows);
  for (std::size_t k = 0; k < d.values.size(); ++k)
    EXPECT_LT(std::abs(d.values[k]), 2e-3 * std::abs(layer.weight.values[k]) + 1e-3);
}

TEST_P(SolveProperties, TinyAndHugeWeightsKeepFiniteScales) {
  Layer layer = make_layer(4, 64, 18);
  for (std::int64_t c = 0; c < 64; ++c) {
    layer.weight.at(0, c) = static_cast<float>(1e-12 * layer.weight.at(0, c));
    layer.weight.at(1, c) = static_cast<float>(1e8 * layer.weight.at(1, c));
  }
  const Solved solved = solve(backend(), layer, section_of(4, 32, true, kOrderModes[2], "weighted"));
  for (const f16 scale : solved.rows.scales) {
    EXPECT_GT(to_float(scale), 0);
    EXPECT_TRUE(std::isfinite(to_float(scale)));
  }
}

TEST_P(SolveProperties, LargeCodesOfEightBits) {
  const Layer layer = make_layer(20, 100, 21);
  for (const bool sym : {true, false}) {
    const Solved solved = solve(backend(), layer, section_of(8, 50, sym, kOrderModes[0], "minmax"));
    const auto [low, high] = std::minmax_element(solved.rows.codes.begin(), solved.rows.codes.end());
    EXPECT_LT(*low, 10);
    EXPECT_GT(*high, 245);
    const auto d = difference(layer, solved.factor.columns, solved.rows);
    EXPECT_NEAR(sum(solved.rows.output_error) / reference::quadratic_form(d, layer.hessian), 1, 1e-2);
  }
}

TEST_P(SolveProperties, NanInWeightsIsANumericalError) {
  for (const std::int64_t row : {0, 65}) {
    Layer layer = make_layer(66, 64, 20);
    layer.weight.at(row, 3) = std::numeric_limits<double>::quiet_NaN();
    EXPECT_THROW(solve(backend(), layer, QuantizationSection{}), NumericalError) << "row " << row;
  }
  // ... after which the backend goes on.
  EXPECT_EQ(solve(backend(), make_layer(3, 64, 20), QuantizationSection{}).rows.rows, 3);
}

GPTQ_BACKEND_SUITE(SolveProperties);

}  // namespace
}  // namespace gptq::solve_test
