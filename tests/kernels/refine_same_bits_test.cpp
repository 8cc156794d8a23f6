#include <gtest/gtest.h>

#include "kernels/quality_fixture.h"

/// A refined or corrected row's bits depend on that row alone.
namespace gptq::solve_test {
namespace {

class RefineSameBits : public test::BackendTest {
 protected:
  bool emulated() const { return test::is_emulated(GetParam()); }
};

TEST_P(RefineSameBits, ForAnyPartitionOfTheRows) {
  const std::int64_t rows = emulated() ? 70 : 150;
  for (const QuantizationSection& section : unlike_sections()) {
    const Stage stage = make_stage(backend(), make_layer(rows, 200, 61), section);
    const SolveOptions options = Recipe(section).solve_options();
    const QuantizedRows solved = solve_stage(backend(), stage, options);
    const QuantizedRows whole = refine(backend(), stage, solved, options, {3, true});
    for (const std::int64_t step : {1, 37, 100}) {
      for (std::int64_t first = 0; first < rows; first += step) {
        const std::int64_t count = std::min<std::int64_t>(step, rows - first);
        if (step == 1 && first % 29 != 0) continue;
        const SolveColumns& columns = stage.factor.columns;
        EXPECT_TRUE(same_bits(
            refine(backend(), stage, slice(solved, columns, first, count), options, {3, true}, first),
            slice(whole, columns, first, count)))
            << "rows " << first << " to " << first + count;
      }
    }
  }
}

TEST_P(RefineSameBits, ForPartsOfEveryTypeTogetherAndAlone) {
  const std::int64_t n = 140;
  const QuantizationSection section = unlike_sections()[0];
  const Stage stage = make_stage(backend(), make_layer(110, n, 62), section);
  const SolveOptions options = Recipe(section).solve_options();
  const HostTensor floats = as_tensor(stage.layer.weight);
  const HostTensor halves = convert(floats, DType::f16), brains = convert(floats, DType::bf16);
  const auto prepared = backend().kernels().prepare_linear(brains.matrix(), {}, DType::bf16);
  const std::vector<RowsToSolve> parts = {{floats.matrix().rows_from(0, 65)},
                                          {halves.matrix().rows_from(65, 0)},
                                          {halves.matrix().rows_from(65, 5)},
                                          {brains.matrix().rows_from(70, 40), prepared.get(), 70}};
  const std::vector<QuantizedRows> solved = solve_parts(backend(), parts, stage.factor, section);
  std::vector<QuantizedRows> together = solved;
  const RefineOptions how{2, true};
  backend().kernels().refine_rows(parts, stage.factor.columns, stage.h.as<float>(), options, how, together);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    QuantizedRows alone = solved[i];
    const RowsToSolve copied{parts[i].weight};
    backend().kernels().refine_rows({&copied, 1}, stage.factor.columns, stage.h.as<float>(), options, how,
                                    {&alone, 1});
    EXPECT_TRUE(same_bits(alone, together[i])) << "part " << i;
    EXPECT_TRUE(parts[i].weight.rows == 0 || alone.codes != solved[i].codes);
  }
  backend().kernels().refine_rows({}, stage.factor.columns, stage.h.as<float>(), options, how, {});
}

TEST_P(RefineSameBits, AgainAfterOtherWorkAndOnAFreshBackend) {
  for (const QuantizationSection& section : unlike_sections()) {
    const Stage stage = make_stage(backend(), make_layer(emulated() ? 10 : 70, 260, 63), section);
    const SolveOptions options = Recipe(section).solve_options();
    const QuantizedRows solved = solve_stage(backend(), stage, options);
    const QuantizedRows first = refine(backend(), stage, solved, options, {2, true});
    const Stage other = make_stage(backend(), make_layer(5, 300, 64), section);
    refine(backend(), other, solve_stage(backend(), other, options), options, {2, true});
    EXPECT_TRUE(same_bits(refine(backend(), stage, solved, options, {2, true}), first));
    const auto fresh = test::make_test_backend(GetParam());
    const Stage copy = make_stage(*fresh, stage.layer, section);
    EXPECT_TRUE(
        same_bits(refine(*fresh, copy, solve_stage(*fresh, copy, options), options, {2, true}), first));
  }
}

GPTQ_BACKEND_SUITE(RefineSameBits);

TEST(RefineOnTheCpu, AnyNumberOfThreadsGivesTheSameBits) {
  const Layer layer = make_layer(300, 260, 65);
  const auto one = test::make_test_backend("cpu", 1);
  for (const QuantizationSection& section : unlike_sections()) {
    const SolveOptions options = Recipe(section).solve_options();
    const Stage stage = make_stage(*one, layer, section);
    const QuantizedRows solved = solve_stage(*one, stage, options);
    const QuantizedRows expected = refine(*one, stage, solved, options, {2, true});
    for (const int threads : {2, 3}) {
      const auto many = test::make_test_backend("cpu", threads);
      const Stage same = make_stage(*many, layer, section);
      EXPECT_EQ(test::download<float>(*many, same.h, 260 * 260),
                test::download<float>(*one, stage.h, 260 * 260));
      EXPECT_TRUE(same_bits(refine(*many, same, solved, options, {2, true}), expected))
          << threads << " threads";
    }
  }
}

}  // namespace
}  // namespace gptq::solve_test
