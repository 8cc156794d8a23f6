#include <gtest/gtest.h>

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

/// Rows [first, first + count) of `rows`, as one object.
QuantizedRows slice(const QuantizedRows& rows, const SolveColumns& columns, std::int64_t first,
                    std::int64_t count) {
  const auto cut = [&](const auto& values, std::int64_t width) {
    const auto begin = values.begin() + first * width;
    return std::decay_t<decltype(values)>(begin, begin + count * width);
  };
  return {count,
          cut(rows.codes, columns.n),
          cut(rows.scales, columns.groups),
          cut(rows.zeros, columns.groups),
          cut(rows.solve_loss, 1),
          cut(rows.output_error, 1),
          cut(rows.output_norm, 1),
          cut(rows.weight_error, 1),
          cut(rows.weight_norm, 1)};
}

std::vector<QuantizationSection> sections() {
  return {section_of(4, 128, true, kOrderModes[2], "weighted"),
          section_of(4, 64, false, kOrderModes[1], "weighted"),
          section_of(3, 150, false, kOrderModes[0], "mse"), section_of(4, -1, true, kOrderModes[3], "minmax"),
          section_of(2, 32, true, kOrderModes[4], "weighted")};
}

TEST(SolveProperties, AnyPartitionOfTheRowsGivesTheSameBits) {
  const Layer layer = make_layer(150, 200, 11);
  const auto cpu = backend(1);
  for (const QuantizationSection& section : sections()) {
    const Solved whole = solve(*cpu, layer, section);
    for (const std::int64_t step : {1, 37, 64, 100}) {
      for (std::int64_t first = 0; first < 150; first += step) {
        const std::int64_t count = std::min<std::int64_t>(step, 150 - first);
        if (step == 1 && first % 29 != 0) continue;
        const Solved part = solve(*cpu, layer, section, first, count);
        EXPECT_TRUE(same_bits(part.rows, slice(whole.rows, whole.factor.columns, first, count)))
            << "rows " << first << " to " << first + count;
      }
    }
  }
}

TEST(SolveProperties, AnyNumberOfThreadsGivesTheSameBits) {
  const Layer layer = make_layer(300, 140, 12);
  for (const QuantizationSection& section : sections()) {
    const Solved one = solve(*backend(1), layer, section);
    for (const int threads : {2, 3}) {
      const Solved many = solve(*backend(threads), layer, section);
      EXPECT_EQ(one.factor.r, many.factor.r);
      EXPECT_TRUE(same_bits(one.rows, many.rows)) << threads << " threads";
    }
  }
}

TEST(SolveProperties, BeatsRoundToNearest) {
  const Layer layer = make_layer(64, 192, 13);
  const auto cpu = backend(2);
  for (const QuantizationSection& section : sections()) {
    const Solved solved = solve(*cpu, layer, section);
    Solved nearest = solved;
    std::vector<float> w = as_floats(layer.weight);
    nearest.rows = cpu->kernels().solve_rows({w.data(), DType::f32, 64, 192, 192}, solved.factor.columns, {},
                                             0, Recipe(section).solve_options());
    EXPECT_LT(sum(solved.rows.output_error),
              0.8 * reference::quadratic_form(difference(layer, nearest), layer.hessian));
  }
}

TEST(SolveProperties, ReportsTheNormsOfTheirDefinition) {
  const Layer layer = make_layer(40, 300, 14);
  const Solved solved = solve(*backend(1), layer, section_of(4, 128, true, kOrderModes[2], "weighted"));
  const reference::Dense d = difference(layer, solved);
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

TEST(SolveProperties, DeadColumnsGetTheZeroPoint) {
  Layer layer = make_layer(10, 140, 15);
  for (const std::int64_t dead : {0, 77, 139}) {
    for (std::int64_t c = 0; c < 140; ++c) layer.hessian.at(dead, c) = layer.hessian.at(c, dead) = 0;
  }
  for (const QuantizationSection& section : sections()) {
    const Solved solved = solve(*backend(1), layer, section);
    EXPECT_FALSE(solved.factor.fallback);
    const SolveColumns& columns = solved.factor.columns;
    for (std::int64_t row = 0; row < 10; ++row) {
      for (const std::int64_t dead : {0, 77, 139}) {
        const std::int32_t group = columns.group_of[static_cast<std::size_t>(dead)];
        EXPECT_EQ(solved.rows.codes[static_cast<std::size_t>(row * 140 + dead)],
                  solved.rows.zeros[static_cast<std::size_t>(row * columns.groups + group)]);
      }
    }
    const double exact = reference::quadratic_form(difference(layer, solved), layer.hessian);
    EXPECT_NEAR(sum(solved.rows.output_error) / exact, 1, 1e-3);
  }
}

TEST(SolveProperties, AllColumnsDeadAndRowsOfZeros) {
  Layer layer = make_layer(3, 40, 16);
  std::fill(layer.hessian.values.begin(), layer.hessian.values.end(), 0.0);
  const Solved solved = solve(*backend(1), layer, section_of(4, 16, false, kOrderModes[2], "weighted"));
  for (std::size_t k = 0; k < solved.rows.codes.size(); ++k) EXPECT_EQ(solved.rows.codes[k], 8);
  for (const f16 scale : solved.rows.scales) EXPECT_GT(to_float(scale), 0);
  EXPECT_EQ(sum(solved.rows.output_error), 0);
}

TEST(SolveProperties, AsymmetricZerosAreAtLeastOneAndLoseNothing) {
  Layer layer = make_layer(5, 64, 17);
  for (double& w : layer.weight.values)
    w = std::abs(w) + 0.01;  // all positive: the textbook's zero would be 0
  const QuantizationSection section = section_of(4, 1, false, kOrderModes[0], "minmax");
  const Solved solved = solve(*backend(1), layer, section);
  for (const std::uint8_t zero : solved.rows.zeros) EXPECT_EQ(zero, 1);
  const reference::Dense d = difference(layer, solved);
  for (std::size_t k = 0; k < d.values.size(); ++k)
    EXPECT_LT(std::abs(d.values[k]), 2e-3 * std::abs(layer.weight.values[k]) + 1e-3);
}

TEST(SolveProperties, TinyAndHugeWeightsKeepFiniteScales) {
  Layer layer = make_layer(4, 64, 18);
  for (std::int64_t c = 0; c < 64; ++c) {
    layer.weight.at(0, c) = static_cast<float>(1e-12 * layer.weight.at(0, c));
    layer.weight.at(1, c) = static_cast<float>(1e8 * layer.weight.at(1, c));
  }
  const Solved solved = solve(*backend(1), layer, section_of(4, 32, true, kOrderModes[2], "weighted"));
  for (const f16 scale : solved.rows.scales) {
    EXPECT_GT(to_float(scale), 0);
    EXPECT_TRUE(std::isfinite(to_float(scale)));
  }
}

TEST(SolveProperties, NoRowsIsNoWork) {
  const Layer layer = make_layer(4, 64, 19);
  EXPECT_TRUE(solve(*backend(2), layer, QuantizationSection{}, 0, 0).rows.codes.empty());
}

TEST(SolveProperties, NanInWeightsIsANumericalError) {
  Layer layer = make_layer(66, 64, 20);
  layer.weight.at(65, 3) = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(solve(*backend(2), layer, QuantizationSection{}), NumericalError);
}

}  // namespace
}  // namespace gptq::solve_test
