#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "kernels/solve_fixture.h"

namespace gptq::solve_test {
namespace {

// Where the range is that of one symmetric column, its value is 7.5 steps (4 bits), a tie by construction,
// which the last bit decides.
constexpr double kEqualCodesAtTies = 0.9;

double share_of_equal(const std::vector<std::uint8_t>& codes, const std::vector<int>& expected) {
  std::size_t equal = 0;
  for (std::size_t k = 0; k < codes.size(); ++k) equal += codes[k] == expected[k];
  return static_cast<double>(equal) / static_cast<double>(codes.size());
}

void compare(Backend& backend, const Layer& layer, const QuantizationSection& section) {
  const test::Tolerances tolerances = test::tolerances_of(backend.name());
  const Solved solved = solve(backend, layer, section);
  const reference::Result expected = reference::quantize(layer.weight, layer.hessian, section);

  ASSERT_EQ(solved.rows.rows, layer.weight.rows);
  ASSERT_EQ(solved.factor.columns.groups, expected.order.groups);
  EXPECT_THAT(solved.factor.columns.order, ::testing::ElementsAreArray(expected.order.visit));
  EXPECT_THAT(solved.factor.columns.group_of, ::testing::ElementsAreArray(expected.order.group_of));
  EXPECT_GE(share_of_equal(solved.rows.codes, expected.codes),
            section.group_size == 1 && section.sym ? kEqualCodesAtTies : tolerances.equal_codes);

  double loss = 0, output_error = 0;
  for (std::size_t row = 0; row < solved.rows.solve_loss.size(); ++row) {
    loss += solved.rows.solve_loss[row];
    output_error += solved.rows.output_error[row];
  }
  EXPECT_NEAR(loss / expected.loss, 1, tolerances.solve_loss);
  const double exact =
      reference::quadratic_form(difference(layer, solved.factor.columns, solved.rows), layer.hessian);
  EXPECT_NEAR(output_error / exact, 1, 1e-3);  // the shortcut over R against the definition
}

using Case = std::tuple<std::string, int, std::int64_t, bool, OrderMode, const char*>;

class SolveAgainstReference : public ::testing::TestWithParam<Case>, protected test::OnBackend {
 protected:
  void SetUp() override { start(std::get<0>(GetParam())); }
};

TEST_P(SolveAgainstReference, GivesTheTextbooksCodes) {
  const auto& [name, bits, group_size, sym, mode, search] = GetParam();
  static const Layer layer = make_layer(9, 260, 1);
  compare(backend(), layer, section_of(bits, group_size, sym, mode, search));
}

std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  const auto& [name, bits, group_size, sym, mode, search] = info.param;
  const std::string group = group_size < 0 ? "all" : std::to_string(group_size);
  return name + "_" + std::to_string(bits) + "bits_group" + group + (sym ? "_sym_" : "_asym_") + mode.name +
         "_" + search;
}

// 260 columns: ragged with 32, 100, 128 and 150; 150 is wider than a column batch and starts inside the
// layer.
INSTANTIATE_TEST_SUITE_P(FourBits, SolveAgainstReference,
                         ::testing::Combine(::testing::ValuesIn(test::test_backends()), ::testing::Values(4),
                                            ::testing::Values(-1, 1, 32, 100, 128, 150), ::testing::Bool(),
                                            ::testing::ValuesIn(kOrderModes),
                                            ::testing::Values("minmax", "weighted")),
                         name_of);
INSTANTIATE_TEST_SUITE_P(OtherBits, SolveAgainstReference,
                         ::testing::Combine(::testing::ValuesIn(test::test_backends()),
                                            ::testing::Values(2, 3, 8), ::testing::Values(-1, 100),
                                            ::testing::Bool(), ::testing::Values(kOrderModes[2]),
                                            ::testing::Values("minmax", "mse", "weighted")),
                         name_of);

class SolveOptionsTest : public test::BackendTest {};

TEST_P(SolveOptionsTest, SearchWithPowersOtherThanTwo) {
  const Layer layer = make_layer(8, 130, 2);
  for (const double norm : {1.0, 2.4, 4.0}) {
    SCOPED_TRACE(norm);
    QuantizationSection section = section_of(4, 64, true, kOrderModes[2], "mse");
    section.mse_norm = norm;
    compare(backend(), layer, section);
    section.sym = false;
    section.scale_search = "weighted";
    compare(backend(), layer, section);
  }
}

TEST_P(SolveOptionsTest, OtherGridsAndShrinks) {
  const Layer layer = make_layer(8, 130, 3);
  QuantizationSection section = section_of(3, 64, true, kOrderModes[2], "weighted");
  section.mse_grid = 37;  // candidates that fill no whole vector of the search
  section.max_shrink = 0.5;
  compare(backend(), layer, section);
  section.mse_grid = 1;  // the whole range alone
  compare(backend(), layer, section);
}

TEST_P(SolveOptionsTest, WidthsAroundAColumnBatch) {
  for (const std::int64_t n : {1, 2, 31, 127, 128, 129, 256, 257}) {
    SCOPED_TRACE(n);
    compare(backend(), make_layer(3, n, 4), section_of(4, 64, false, kOrderModes[2], "minmax"));
    compare(backend(), make_layer(3, n, 5), section_of(4, -1, true, kOrderModes[1], "minmax"));
  }
}

TEST_P(SolveOptionsTest, RowsAroundAPanel) {
  for (const std::int64_t rows : {1, 63, 64, 65}) {
    SCOPED_TRACE(rows);
    compare(backend(), make_layer(rows, 140, 6), section_of(4, 32, true, kOrderModes[2], "minmax"));
  }
}

GPTQ_BACKEND_SUITE(SolveOptionsTest);

class SolveRoundToNearest : public test::BackendTest {};

TEST_P(SolveRoundToNearest, EqualsTheReferenceExactly) {
  const Layer layer = make_layer(70, 100, 4);
  for (const bool sym : {true, false}) {
    const QuantizationSection section = section_of(4, 32, sym, kOrderModes[0], "minmax");
    const QuantizedRows rows = round_to_nearest(backend(), layer, natural_columns(100, section), section);
    const reference::Result expected = reference::round_to_nearest(layer.weight, section);
    EXPECT_GE(share_of_equal(rows.codes, expected.codes), 0.9995);
    for (std::size_t k = 0; k < rows.scales.size(); ++k) {
      EXPECT_EQ(to_float(rows.scales[k]), static_cast<float>(expected.scales[k]));
      EXPECT_EQ(rows.zeros[k], expected.zeros[k]);
    }
    EXPECT_EQ(rows.solve_loss[0], 0);
    EXPECT_EQ(rows.output_error[0], 0);
    EXPECT_GT(rows.weight_error[0], 0);
  }
}

TEST_P(SolveRoundToNearest, SearchesItsScalesAsTheReferenceDoes) {
  const Layer layer = make_layer(20, 300, 7);
  for (const char* search : {"mse", "weighted"}) {
    const QuantizationSection section = section_of(3, 128, false, kOrderModes[0], search);
    const QuantizedRows rows = round_to_nearest(backend(), layer, natural_columns(300, section), section);
    const reference::Result expected = reference::round_to_nearest(layer.weight, section);
    EXPECT_GE(share_of_equal(rows.codes, expected.codes), test::tolerances_of(GetParam()).equal_codes);
  }
}

GPTQ_BACKEND_SUITE(SolveRoundToNearest);

}  // namespace
}  // namespace gptq::solve_test
