#include <gtest/gtest.h>

#include "kernels/quality_fixture.h"

/// From the same codes, scales and Hessian every backend makes the codes and scales of the CPU: g's terms are
/// added in the same order, and what decides a scale is summed in double precision.
namespace gptq::solve_test {
namespace {

void expect_same_codes(const QuantizedRows& got, const QuantizedRows& expected) {
  EXPECT_EQ(got.codes, expected.codes);
  EXPECT_EQ(got.zeros, expected.zeros);
  ASSERT_EQ(got.scales.size(), expected.scales.size());
  for (std::size_t k = 0; k < got.scales.size(); ++k) EXPECT_EQ(got.scales[k].bits, expected.scales[k].bits);
}

class RefineBackendsAgree : public test::BackendTest {
 protected:
  void compare(const Layer& layer, const QuantizationSection& section, const RefineOptions& how) {
    const auto cpu = test::make_test_backend("cpu");
    const Stage ours = make_stage(*cpu, layer, section);
    Stage theirs{layer, test::hessian_sum_from(backend(), layer.hessian.values, layer.weight.cols), {}, {}};
    theirs.factor.columns = ours.factor.columns;
    theirs.h = test::poisoned(backend(), factor_bytes(layer.weight.cols));
    backend().kernels().expand_hessian(theirs.input(0), theirs.h.as<float>());
    const auto entries = static_cast<std::size_t>(layer.weight.cols * layer.weight.cols);
    EXPECT_EQ(test::download<float>(backend(), theirs.h, entries),
              test::download<float>(*cpu, ours.h, entries));

    const SolveOptions options = solve_options(section);
    const QuantizedRows solved = solve_stage(*cpu, ours, options);
    const QuantizedRows expected = refine(*cpu, ours, solved, options, how);
    const QuantizedRows got = refine(backend(), theirs, solved, options, how);
    EXPECT_NE(expected.codes, solved.codes);
    expect_same_codes(got, expected);
    for (std::size_t row = 0; row < got.output_error.size(); ++row) {
      EXPECT_NEAR(got.output_error[row], expected.output_error[row], 1e-6 * expected.output_error[row]);
      EXPECT_NEAR(got.weight_error[row], expected.weight_error[row], 1e-9 * expected.weight_error[row]);
    }
  }
};

TEST_P(RefineBackendsAgree, OnEveryKindOfGroupAndOrder) {
  const Layer layer = make_layer(20, 300, 91);
  for (const OrderMode& mode : kOrderModes) {
    for (const std::int64_t group_size : {16, 100, 150, -1}) {
      SCOPED_TRACE(std::string(mode.name) + ", groups of " + std::to_string(group_size));
      compare(layer, section_of(4, group_size, group_size != 100, mode, "weighted"), {2, group_size != 16});
    }
  }
}

// 130: rows of H that do not begin on 16-byte boundaries.
TEST_P(RefineBackendsAgree, OnEveryWidthOfCodesAndUnalignedRows) {
  const Layer layer = make_layer(9, 130, 92);
  for (const int bits : {2, 3, 4, 8}) {
    SCOPED_TRACE(std::to_string(bits) + " bits");
    compare(layer, section_of(bits, 32, true, kOrderModes[2], "minmax"), {3, true});
    compare(layer, section_of(bits, 128, false, kOrderModes[1], "minmax"), {3, true});
  }
}

// The solve, where scales are given, has nothing left to choose but codes.
TEST_P(RefineBackendsAgree, OnGivenScalesAndThreeLevels) {
  const auto cpu = test::make_test_backend("cpu");
  const Layer layer = make_layer(20, 300, 93);
  const HostTensor weight = as_tensor(layer.weight);
  for (const OrderMode& mode : kOrderModes) {
    for (const std::int64_t group_size : {32, 150}) {
      SCOPED_TRACE(std::string(mode.name) + ", groups of " + std::to_string(group_size));
      const QuantizationSection section = section_of(2, group_size, group_size == 32, mode, "weighted");
      const Stage ours = make_stage(*cpu, layer, section);
      SolveOptions options = solve_options(section);
      options.trits = true;
      const QuantizedRows sought = solve_stage(*cpu, ours, options);
      RowsToSolve given{weight.matrix()};
      given.scales = sought.scales.data();
      given.zeros = sought.zeros.data();
      // Together with a part that seeks its scales.
      const std::vector<RowsToSolve> parts = {{weight.matrix().rows_from(0, 3)}, given};
      const DeviceBuffer r = to_device(backend(), ours.factor.factor(), ours.factor.r.size());
      const SolveColumns& columns = ours.factor.columns;
      const auto expected =
          cpu->kernels().solve_rows(parts, columns, ours.factor.factor(), ours.factor.damping, options);
      const auto got =
          backend().kernels().solve_rows(parts, columns, r.as<float>(), ours.factor.damping, options);
      for (const std::size_t part : {0, 1}) expect_same_codes(got[part], expected[part]);
      EXPECT_EQ(got[1].codes, sought.codes);
      const auto nearest = backend().kernels().solve_rows({&given, 1}, columns, nullptr, 0, options)[0];
      expect_same_codes(nearest, cpu->kernels().solve_rows({&given, 1}, columns, nullptr, 0, options)[0]);
    }
  }
}

GPTQ_BACKEND_SUITE(RefineBackendsAgree);

}  // namespace
}  // namespace gptq::solve_test
