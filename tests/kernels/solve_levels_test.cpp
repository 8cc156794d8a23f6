#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/quality_fixture.h"

/// Levels that are no power of two, and scales that are given.
namespace gptq::solve_test {
namespace {

class SolveLevels : public test::BackendTest {};

double share_of_equal(const std::vector<std::uint8_t>& codes, const std::vector<int>& expected) {
  std::size_t equal = 0;
  for (std::size_t k = 0; k < codes.size(); ++k) equal += codes[k] == expected[k];
  return static_cast<double>(equal) / static_cast<double>(codes.size());
}

TEST_P(SolveLevels, ThreeLevelsAreTheTextbooks) {
  const Layer layer = make_layer(9, 260, 91);
  for (const bool sym : {true, false}) {
    for (const char* search : {"minmax", "mse", "weighted"}) {
      for (const std::int64_t group_size : {-1, 32, 100}) {
        SCOPED_TRACE(std::string(search) + (sym ? ", " : ", asymmetric, ") + std::to_string(group_size));
        const QuantizationSection section = section_of(2, group_size, sym, kOrderModes[2], search);
        const Stage stage = make_stage(backend(), layer, section);
        SolveOptions options = Recipe(section).solve_options();
        options.trits = true;
        const QuantizedRows rows = solve_stage(backend(), stage, options);
        const reference::Result expected = reference::quantize(layer.weight, layer.hessian, section, 3);
        EXPECT_GE(share_of_equal(rows.codes, expected.codes), test::tolerances_of(GetParam()).equal_codes);
        EXPECT_EQ(*std::max_element(rows.codes.begin(), rows.codes.end()), 2);
        if (sym)
          for (const std::uint8_t zero : rows.zeros) EXPECT_EQ(zero, 1);
      }
    }
  }
}

TEST_P(SolveLevels, OddNumbersOfBitsAreTheTextbooks) {
  const Layer layer = make_layer(9, 260, 92);
  for (const int bits : {3, 5, 6, 7}) {
    for (const bool sym : {true, false}) {
      SCOPED_TRACE(std::to_string(bits) + (sym ? " bits" : " bits, asymmetric"));
      const QuantizationSection section = section_of(bits, 100, sym, kOrderModes[2], "minmax");
      const Stage stage = make_stage(backend(), layer, section);
      const SolveOptions options = Recipe(section).solve_options();
      const QuantizedRows rows = solve_stage(backend(), stage, options);
      const reference::Result expected = reference::quantize(layer.weight, layer.hessian, section);
      EXPECT_GE(share_of_equal(rows.codes, expected.codes), test::tolerances_of(GetParam()).equal_codes);
      EXPECT_GT(*std::max_element(rows.codes.begin(), rows.codes.end()), (1 << bits) - 3);
      EXPECT_LE(*std::max_element(rows.codes.begin(), rows.codes.end()), options.max_code());
    }
  }
}

// The scales that a solve would have sought, given to it, change nothing: where they were found before the
// first column, and where they were found on the way.
TEST_P(SolveLevels, GivenScalesAreUsedAsTheyAre) {
  for (const QuantizationSection& section : unlike_sections()) {
    const Stage stage = make_stage(backend(), make_layer(70, 260, 93), section);
    const SolveOptions options = Recipe(section).solve_options();
    const QuantizedRows sought = solve_stage(backend(), stage, options);
    const HostTensor weight = as_tensor(stage.layer.weight);
    const auto groups = static_cast<std::size_t>(stage.factor.columns.groups);
    const auto solve_given = [&](const std::vector<f16>& scales, const std::vector<std::uint8_t>& zeros,
                                 std::int64_t first, std::int64_t count) {
      const std::size_t place = static_cast<std::size_t>(first) * groups;
      const RowsToSolve part{weight.matrix().rows_from(first, count), nullptr, 0, scales.data() + place,
                             zeros.data() + place};
      return solve_parts(backend(), {&part, 1}, stage.factor, section)[0];
    };
    EXPECT_TRUE(same_bits(solve_given(sought.scales, sought.zeros, 0, 70), sought));
    EXPECT_TRUE(same_bits(solve_given(sought.scales, sought.zeros, 64, 6),
                          slice(sought, stage.factor.columns, 64, 6)));

    // Others than would have been sought.
    std::vector<f16> wider = sought.scales;
    for (f16& scale : wider) scale = to_f16(1.5f * to_float(scale));
    const QuantizedRows given = solve_given(wider, sought.zeros, 0, 70);
    for (std::size_t k = 0; k < wider.size(); ++k) ASSERT_EQ(given.scales[k].bits, wider[k].bits);
    EXPECT_EQ(given.zeros, sought.zeros);
    EXPECT_NE(given.codes, sought.codes);
    EXPECT_LT(given.output_error[0], given.output_norm[0]);
  }
}

TEST_P(SolveLevels, GivenAndSoughtScalesInOneCall) {
  for (const QuantizationSection& section : unlike_sections()) {
    const Stage stage = make_stage(backend(), make_layer(20, 260, 94), section);
    const QuantizedRows sought = solve_stage(backend(), stage, Recipe(section).solve_options());
    const HostTensor weight = as_tensor(stage.layer.weight);
    const auto groups = static_cast<std::size_t>(stage.factor.columns.groups);
    const std::vector<RowsToSolve> parts = {
        {weight.matrix().rows_from(0, 7)},
        {weight.matrix().rows_from(7, 6), nullptr, 0, sought.scales.data() + 7 * groups,
         sought.zeros.data() + 7 * groups},
        {weight.matrix().rows_from(13, 7)}};
    const std::vector<QuantizedRows> results = solve_parts(backend(), parts, stage.factor, section);
    EXPECT_TRUE(same_bits(results[0], slice(sought, stage.factor.columns, 0, 7)));
    EXPECT_TRUE(same_bits(results[1], slice(sought, stage.factor.columns, 7, 6)));
    EXPECT_TRUE(same_bits(results[2], slice(sought, stage.factor.columns, 13, 7)));
  }
}

TEST_P(SolveLevels, RoundToNearestWithGivenScales) {
  const Layer layer = make_layer(10, 140, 95);
  const QuantizationSection section = section_of(4, 32, false, kOrderModes[0], "mse");
  const SolveColumns columns = natural_columns(140, section);
  const QuantizedRows sought = round_to_nearest(backend(), layer, columns, section);
  const HostTensor weight = as_tensor(layer.weight);
  const RowsToSolve part{weight.matrix(), nullptr, 0, sought.scales.data(), sought.zeros.data()};
  const QuantizedRows given =
      backend().kernels().solve_rows({&part, 1}, columns, nullptr, 0, Recipe(section).solve_options())[0];
  EXPECT_TRUE(same_bits(given, sought));
}

GPTQ_BACKEND_SUITE(SolveLevels);

}  // namespace
}  // namespace gptq::solve_test
