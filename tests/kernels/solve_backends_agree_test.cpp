#include <gtest/gtest.h>

#include "kernels/solve_fixture.h"

/// Given the same factor, every backend chooses the codes, scales and zeros of the CPU's: they form the same
/// sums in the same order as long as a layer has at most 512 columns before its last batch.
namespace gptq::solve_test {
namespace {

class SolveBackendsAgree : public test::BackendTest {
 protected:
  /// The tests' one layer, by another backend, with a factor found here.
  void compare(const Layer& layer, const QuantizationSection& section) {
    const auto cpu = test::make_test_backend("cpu");
    const StageFactor ours = factor(*cpu, layer, section);
    StageFactor theirs;
    theirs.columns = ours.columns;
    theirs.damping = ours.damping;
    theirs.r = to_device(backend(), ours.factor(), ours.r.size());
    const std::int64_t rows = layer.weight.rows;
    expect_same(solve_rows(*cpu, layer, ours, section, 0, rows),
                solve_rows(backend(), layer, theirs, section, 0, rows));
    expect_same(round_to_nearest(*cpu, layer, ours.columns, section),
                round_to_nearest(backend(), layer, ours.columns, section));
  }

 private:
  static void expect_same(const QuantizedRows& expected, const QuantizedRows& got) {
    EXPECT_EQ(got.codes, expected.codes);
    EXPECT_EQ(got.zeros, expected.zeros);
    ASSERT_EQ(got.scales.size(), expected.scales.size());
    for (std::size_t k = 0; k < got.scales.size(); ++k)
      EXPECT_EQ(got.scales[k].bits, expected.scales[k].bits);
    for (std::size_t row = 0; row < got.solve_loss.size(); ++row) {
      EXPECT_NEAR(got.solve_loss[row], expected.solve_loss[row], 1e-5 * expected.solve_loss[row]);
      EXPECT_NEAR(got.output_norm[row], expected.output_norm[row], 1e-4 * expected.output_norm[row]);
      EXPECT_NEAR(got.weight_error[row], expected.weight_error[row], 1e-5 * expected.weight_error[row]);
      EXPECT_NEAR(got.weight_norm[row], expected.weight_norm[row], 1e-5 * expected.weight_norm[row]);
    }
  }
};

TEST_P(SolveBackendsAgree, OnEveryKindOfGroupOrderAndSearch) {
  const Layer layer = make_layer(70, 300, 31);
  for (const OrderMode& mode : kOrderModes) {
    for (const std::int64_t group_size : {16, 100, 150, -1}) {
      SCOPED_TRACE(std::string(mode.name) + ", groups of " + std::to_string(group_size));
      compare(layer, section_of(4, group_size, group_size != 100, mode, "weighted"));
    }
  }
}

TEST_P(SolveBackendsAgree, OnEveryWidthOfCodes) {
  const Layer layer = make_layer(9, 140, 32);
  for (const int bits : {2, 3, 4, 5, 8}) {
    for (const bool sym : {true, false}) {
      SCOPED_TRACE(std::to_string(bits) + (sym ? " bits" : " bits, asymmetric"));
      compare(layer, section_of(bits, 32, sym, kOrderModes[2], "mse"));
      compare(layer, section_of(bits, 128, sym, kOrderModes[1], "minmax"));
    }
  }
}

TEST_P(SolveBackendsAgree, OnPowersOtherThanTwo) {
  const Layer layer = make_layer(9, 130, 33);
  QuantizationSection section = section_of(4, 64, true, kOrderModes[2], "weighted");
  for (const double norm : {1.0, 2.4, 4.0}) {
    section.mse_norm = norm;
    compare(layer, section);
  }
}

GPTQ_BACKEND_SUITE(SolveBackendsAgree);

}  // namespace
}  // namespace gptq::solve_test
