#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>

#include "base/error.h"
#include "kernels/quality_fixture.h"

namespace gptq::solve_test {
namespace {

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

/// What must hold after any refinement, whatever it started from.
void expect_promises(const Stage& stage, const QuantizedRows& before, const QuantizedRows& after,
                     const SolveOptions& options) {
  const std::vector<double> old_losses = losses(stage, before), new_losses = losses(stage, after);
  for (std::size_t row = 0; row < old_losses.size(); ++row) {
    EXPECT_LE(new_losses[row], old_losses[row]) << "row " << row;
    EXPECT_LE(after.output_error[row], after.solve_error[row]) << "row " << row;
    EXPECT_NEAR(after.solve_error[row], old_losses[row], 1e-4 * old_losses[row] + 1e-12);
    EXPECT_NEAR(after.output_error[row], new_losses[row], 1e-4 * new_losses[row] + 1e-12);
  }
  EXPECT_EQ(after.zeros, before.zeros);
  EXPECT_EQ(after.solve_loss, before.solve_loss);
  EXPECT_EQ(after.output_norm, before.output_norm);
  EXPECT_EQ(after.weight_norm, before.weight_norm);
  for (const std::uint8_t code : after.codes) EXPECT_LE(code, options.max_code());
  for (const f16 scale : after.scales) {
    EXPECT_GT(to_float(scale), 0);
    EXPECT_TRUE(std::isfinite(to_float(scale)));
  }
  const reference::Dense d = difference(stage.layer, stage.factor.columns, after);
  double weight_error = 0;
  for (const double x : d.values) weight_error += x * x;
  EXPECT_NEAR(sum(after.weight_error) / weight_error, 1, 1e-5);
}

using Case = std::tuple<std::string, int, std::int64_t, bool, OrderMode>;

class RefineRows : public ::testing::TestWithParam<Case>, protected test::OnBackend {
 protected:
  void SetUp() override { start(std::get<0>(GetParam())); }
};

TEST_P(RefineRows, NeverRaisesAnExactLossAndLowersTheirSum) {
  const auto& [name, bits, group_size, sym, mode] = GetParam();
  const QuantizationSection section = section_of(bits, group_size, sym, mode, "weighted");
  Layer layer = make_layer(test::is_emulated(name) ? 9 : 70, 260, 41);
  kill_columns(layer, {3, 200});
  const Stage stage = make_stage(backend(), std::move(layer), section);
  const SolveOptions options = solve_options(section);
  const QuantizedRows solved = solve_stage(backend(), stage, options);
  const double start = sum(losses(stage, solved));
  double before = start;
  // More sweeps go on from fewer; with scales they take another way.
  for (const RefineOptions& how :
       {RefineOptions{1, false}, RefineOptions{3, false}, RefineOptions{3, true}}) {
    SCOPED_TRACE(std::to_string(how.sweeps) + (how.refit_scales ? " sweeps with scales" : " sweeps"));
    const QuantizedRows refined = refine(backend(), stage, solved, options, how);
    expect_promises(stage, solved, refined, options);
    const double lower = sum(losses(stage, refined));
    EXPECT_LT(lower, start);
    if (!how.refit_scales) {
      EXPECT_LE(lower, before);
    }
    before = lower;
    for (std::size_t k = 0; k < refined.scales.size() && !how.refit_scales; ++k)
      EXPECT_EQ(refined.scales[k].bits, solved.scales[k].bits);
  }
}

std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  const auto& [name, bits, group_size, sym, mode] = info.param;
  const std::string group = group_size < 0 ? "all" : std::to_string(group_size);
  return name + "_" + std::to_string(bits) + "bits_group" + group + (sym ? "_sym_" : "_asym_") + mode.name;
}

// 260 columns: ragged with 32, 100, 128 and 150; 150 is wider than a column batch and starts inside the
// layer.
INSTANTIATE_TEST_SUITE_P(FourBits, RefineRows,
                         ::testing::Combine(::testing::ValuesIn(test::test_backends()), ::testing::Values(4),
                                            ::testing::Values(-1, 1, 32, 100, 128, 150), ::testing::Bool(),
                                            ::testing::ValuesIn(kOrderModes)),
                         name_of);
INSTANTIATE_TEST_SUITE_P(OtherBits, RefineRows,
                         ::testing::Combine(::testing::ValuesIn(test::test_backends()),
                                            ::testing::Values(2, 3, 5, 6, 7, 8), ::testing::Values(-1, 100),
                                            ::testing::Bool(), ::testing::Values(kOrderModes[2])),
                         name_of);

class RefineProperties : public test::BackendTest {
 protected:
  bool emulated() const { return test::is_emulated(GetParam()); }
};

TEST_P(RefineProperties, NoSweepsOnlyMeasures) {
  for (const QuantizationSection& section : unlike_sections()) {
    const Stage stage = make_stage(backend(), make_layer(9, 260, 42), section);
    const SolveOptions options = solve_options(section);
    const QuantizedRows solved = solve_stage(backend(), stage, options);
    const QuantizedRows measured = refine(backend(), stage, solved, options, {0, true});
    EXPECT_EQ(measured.codes, solved.codes);
    expect_promises(stage, solved, measured, options);
  }
}

TEST_P(RefineProperties, WhatIsRefinedToTheEndStaysAsItIs) {
  for (const QuantizationSection& section : unlike_sections()) {
    const Stage stage = make_stage(backend(), make_layer(emulated() ? 5 : 40, 260, 43), section);
    const SolveOptions options = solve_options(section);
    QuantizedRows end = refine(backend(), stage, solve_stage(backend(), stage, options), options, {60, true});
    end.solve_error = end.output_error;  // what it starts from now
    EXPECT_TRUE(same_bits(refine(backend(), stage, end, options, {1, true}), end));
    EXPECT_TRUE(same_bits(refine(backend(), stage, end, options, {3, true}), end));
    EXPECT_TRUE(reference::is_optimal_by_column(stage.layer.weight, stage.layer.hessian, end,
                                                stage.factor.columns, options.max_code(), 1e-4));
  }
}

TEST_P(RefineProperties, RoundToNearestBecomesAlmostAsGoodAsTheSolve) {
  const QuantizationSection section = section_of(4, 64, true, kOrderModes[2], "weighted");
  const Stage stage = make_stage(backend(), make_layer(20, 192, 44), section);
  const SolveOptions options = solve_options(section);
  const QuantizedRows nearest = round_to_nearest(backend(), stage.layer, stage.factor.columns, section);
  const QuantizedRows refined = refine(backend(), stage, nearest, options, {20, true});
  expect_promises(stage, nearest, refined, options);
  const double solved = sum(losses(stage, solve_stage(backend(), stage, options)));
  EXPECT_LT(sum(losses(stage, refined)), 1.2 * solved);
}

TEST_P(RefineProperties, ThreeLevels) {
  for (const bool sym : {true, false}) {
    const QuantizationSection section = section_of(2, 100, sym, kOrderModes[2], "weighted");
    const Stage stage = make_stage(backend(), make_layer(9, 260, 45), section);
    SolveOptions options = solve_options(section);
    options.trits = true;
    const QuantizedRows solved = solve_stage(backend(), stage, options);
    const QuantizedRows refined = refine(backend(), stage, solved, options, {3, true});
    expect_promises(stage, solved, refined, options);
    EXPECT_LT(sum(losses(stage, refined)), sum(losses(stage, solved)));
  }
}

TEST_P(RefineProperties, DeadColumnsAndRowsOfZerosStay) {
  Layer layer = make_layer(4, 140, 46);
  kill_columns(layer, {0, 77, 139});
  for (std::int64_t c = 0; c < 140; ++c) layer.weight.at(2, c) = 0;
  for (const QuantizationSection& section : unlike_sections()) {
    const Stage stage = make_stage(backend(), layer, section);
    const SolveOptions options = solve_options(section);
    const QuantizedRows refined =
        refine(backend(), stage, solve_stage(backend(), stage, options), options, {3, true});
    const SolveColumns& columns = stage.factor.columns;
    const reference::Dense q = reference::values_of(refined, columns);
    for (std::int64_t r = 0; r < 4; ++r)
      for (const std::int64_t dead : {0, 77, 139}) EXPECT_EQ(q.at(r, dead), 0);
    for (std::int64_t c = 0; c < 140; ++c) EXPECT_EQ(q.at(2, c), 0);
    EXPECT_EQ(refined.output_error[2], 0);
  }
}

TEST_P(RefineProperties, AllColumnsDead) {
  Layer layer = make_layer(3, 40, 47);
  std::fill(layer.hessian.values.begin(), layer.hessian.values.end(), 0.0);
  const QuantizationSection section = section_of(4, 16, false, kOrderModes[2], "weighted");
  const Stage stage = make_stage(backend(), layer, section);
  const SolveOptions options = solve_options(section);
  const QuantizedRows solved = solve_stage(backend(), stage, options);
  const QuantizedRows refined = refine(backend(), stage, solved, options, {3, true});
  EXPECT_EQ(refined.codes, solved.codes);
  EXPECT_EQ(sum(refined.output_error), 0);
}

TEST_P(RefineProperties, MagnitudesFarFromOne) {
  // Squares of the smallest and largest Hessians here leave single precision's range; products with weights
  // do not.
  for (const double magnitude : {1e-12, 1e-6, 1e8}) {
    SCOPED_TRACE(magnitude);
    Layer layer = make_layer(5, 140, 48);
    for (double& h : layer.hessian.values) h *= magnitude * magnitude;
    const QuantizationSection section = section_of(3, 32, true, kOrderModes[2], "weighted");
    const Stage stage = make_stage(backend(), layer, section);
    const SolveOptions options = solve_options(section);
    const QuantizedRows solved = solve_stage(backend(), stage, options);
    const QuantizedRows refined = refine(backend(), stage, solved, options, {3, true});
    const std::vector<double> before = losses(stage, solved), after = losses(stage, refined);
    for (std::size_t row = 0; row < before.size(); ++row) EXPECT_LE(after[row], before[row]);
    EXPECT_LT(sum(after), 0.98 * sum(before));
  }
}

// One direction of the inputs outweighs all others a hundred thousand times: single precision hardly sees the
// objective, which is what is left when most of it cancels.
TEST_P(RefineProperties, NoLossRisesWhereMostOfItCancels) {
  Layer layer = make_layer(emulated() ? 9 : 60, 200, 50);
  for (std::int64_t i = 0; i < 200; ++i)
    for (std::int64_t j = 0; j < 200; ++j)
      layer.hessian.at(i, j) +=
          1e5 * std::cos(0.3 * static_cast<double>(i)) * std::cos(0.3 * static_cast<double>(j));
  for (const QuantizationSection& section : unlike_sections()) {
    const Stage stage = make_stage(backend(), layer, section);
    const SolveOptions options = solve_options(section);
    for (const QuantizedRows& start :
         {solve_stage(backend(), stage, options),
          round_to_nearest(backend(), stage.layer, stage.factor.columns, section)}) {
      QuantizedRows rows = start;
      for (int turn = 0; turn < 4; ++turn) {
        const std::vector<double> before = losses(stage, rows);
        rows = refine(backend(), stage, rows, options, {3, turn % 2 == 1});
        const std::vector<double> after = losses(stage, rows);
        for (std::size_t row = 0; row < before.size(); ++row)
          EXPECT_LE(after[row], before[row]) << "row " << row;
      }
      EXPECT_LT(sum(losses(stage, rows)), sum(losses(stage, start)));
    }
  }
}

TEST_P(RefineProperties, NanInWeightsIsANumericalError) {
  const QuantizationSection section = section_of(4, 64, true, kOrderModes[2], "weighted");
  Stage stage = make_stage(backend(), make_layer(66, 64, 49), section);
  const SolveOptions options = solve_options(section);
  const QuantizedRows solved = solve_stage(backend(), stage, options);
  stage.layer.weight.at(65, 3) = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(refine(backend(), stage, solved, options, {2, true}), NumericalError);
}

GPTQ_BACKEND_SUITE(RefineProperties);

}  // namespace
}  // namespace gptq::solve_test
