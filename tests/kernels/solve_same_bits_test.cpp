#include <gtest/gtest.h>

#include <cmath>

#include "kernels/solve_fixture.h"

/// A row's bits depend on that row alone: that is what makes the output independent of who solves what.
namespace gptq::solve_test {
namespace {

class SolveSameBits : public test::BackendTest {
 protected:
  bool emulated() const { return test::is_emulated(GetParam()); }
};

TEST_P(SolveSameBits, ForAnyPartitionOfTheRows) {
  const std::int64_t rows = emulated() ? 80 : 150;
  const Layer layer = make_layer(rows, 200, 11);
  const std::vector<std::int64_t> steps =
      emulated() ? std::vector<std::int64_t>{1, 37} : std::vector<std::int64_t>{1, 37, 64, 100};
  for (const QuantizationSection& section : unlike_sections()) {
    const Solved whole = solve(backend(), layer, section);
    for (const std::int64_t step : steps) {
      for (std::int64_t first = 0; first < rows; first += step) {
        const std::int64_t count = std::min<std::int64_t>(step, rows - first);
        if (step == 1 && first % 29 != 0) continue;
        EXPECT_TRUE(same_bits(solve_rows(backend(), layer, whole.factor, section, first, count),
                              slice(whole.rows, whole.factor.columns, first, count)))
            << "rows " << first << " to " << first + count;
      }
    }
  }
}

// So many rows that a GPU takes other blocks of threads than for a few, and several slices of rows. (The
// emulated GPU is smaller: blocks alone.)
TEST_P(SolveSameBits, ForAFewRowsAndForVeryMany) {
  const std::int64_t rows = emulated() || GetParam() == "cpu" ? 400 : 33000;
  const Layer layer = make_layer(rows, 140, 21);
  for (const int number : {0, 1}) {
    const QuantizationSection section = unlike_sections()[static_cast<std::size_t>(number)];
    const Solved whole = solve(backend(), layer, section);
    for (const std::int64_t first : {std::int64_t{0}, rows / 2 - 1, rows - 3}) {
      EXPECT_TRUE(same_bits(solve_rows(backend(), layer, whole.factor, section, first, 3),
                            slice(whole.rows, whole.factor.columns, first, 3)))
          << "rows from " << first << " of " << rows;
    }
  }
}

TEST_P(SolveSameBits, ForStackedPartsAndForEachAlone) {
  // Parts of every floating type and of heights that panels do not fit, one of them none at all.
  const std::int64_t n = 140;
  const Layer layer = make_layer(150, n, 12);
  const HostTensor floats = as_tensor(layer.weight);
  const HostTensor halves = convert(floats, DType::f16), brains = convert(floats, DType::bf16);
  // The last one lies on the device already.
  const auto prepared = backend().kernels().prepare_linear(brains.matrix(), {}, DType::bf16);
  const std::vector<RowsToSolve> parts = {{floats.matrix().rows_from(0, 70)},
                                          {brains.matrix().rows_from(70, 1)},
                                          {halves.matrix().rows_from(71, 0)},
                                          {halves.matrix().rows_from(71, 40)},
                                          {brains.matrix().rows_from(111, 39), prepared.get(), 111}};
  for (const QuantizationSection& section : unlike_sections()) {
    const StageFactor stage = factor(backend(), layer, section);
    const std::vector<QuantizedRows> together = solve_parts(backend(), parts, stage, section);
    ASSERT_EQ(together.size(), parts.size());
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const RowsToSolve copied{parts[i].weight};
      EXPECT_EQ(together[i].rows, copied.weight.rows);
      EXPECT_TRUE(same_bits(solve_parts(backend(), {&copied, 1}, stage, section)[0], together[i]))
          << "part " << i;
    }
  }
}

TEST_P(SolveSameBits, ForEqualWeightsOfAnyTypeAndStride) {
  const std::int64_t n = 100;
  Layer layer = make_layer(10, n, 13);
  for (double& w : layer.weight.values)
    w = to_float(to_bf16(static_cast<float>(std::ldexp(std::round(w * 512), -9))));
  const QuantizationSection section = unlike_sections()[0];
  const StageFactor stage = factor(backend(), layer, section);
  const HostTensor floats = as_tensor(layer.weight);
  const RowsToSolve plain{floats.matrix()};
  const QuantizedRows expected = solve_parts(backend(), {&plain, 1}, stage, section)[0];
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    reference::Array wide(10, n + 7);
    for (std::int64_t r = 0; r < 10; ++r)
      for (std::int64_t c = 0; c < n; ++c) wide.at(r, c + 3) = layer.weight.at(r, c);
    const HostTensor tensor = reference::to_tensor(wide, dtype);
    const RowsToSolve part{tensor.matrix().cols_from(3, n)};
    EXPECT_TRUE(same_bits(solve_parts(backend(), {&part, 1}, stage, section)[0], expected))
        << gptq::name_of(dtype);
  }
}

TEST_P(SolveSameBits, AgainAfterOtherWorkAndOnAFreshBackend) {
  const Layer layer = make_layer(70, 140, 14);
  for (const QuantizationSection& section : unlike_sections()) {
    const Solved first = solve(backend(), layer, section);
    solve(backend(), make_layer(5, 300, 15), section);
    EXPECT_TRUE(same_bits(solve(backend(), layer, section).rows, first.rows));
    const auto fresh = test::make_test_backend(GetParam());
    EXPECT_TRUE(same_bits(solve(*fresh, layer, section).rows, first.rows));
  }
}

TEST_P(SolveSameBits, NoRowsIsNoWork) {
  const Layer layer = make_layer(4, 64, 19);
  const QuantizationSection section;
  const StageFactor stage = factor(backend(), layer, section);
  EXPECT_TRUE(solve_rows(backend(), layer, stage, section, 0, 0).codes.empty());
  EXPECT_TRUE(solve_parts(backend(), {}, stage, section).empty());
}

// Codes are those of the CPU: all of them where nothing but rounding decides, nearly all where the search
// may choose another one of two nearly equal scales.
TEST_P(SolveSameBits, CodesAreThoseOfTheCpu) {
  const auto cpu = test::make_test_backend("cpu");
  for (const std::int64_t n : {64, 200}) {
    const Layer layer = make_layer(16, n, 16);
    for (const char* search : {"minmax", "weighted"}) {
      const QuantizationSection section = section_of(4, 32, true, kOrderModes[2], search);
      const QuantizedRows expected = solve(*cpu, layer, section).rows;
      const QuantizedRows got = solve(backend(), layer, section).rows;
      std::size_t different = 0;
      for (std::size_t k = 0; k < expected.codes.size(); ++k) different += got.codes[k] != expected.codes[k];
      RecordProperty(std::string(search) + std::to_string(n), static_cast<int>(different));
      EXPECT_LE(static_cast<double>(different), (1 - test::tolerances_of(GetParam()).equal_codes) *
                                                    static_cast<double>(expected.codes.size()))
          << n << " columns, " << search;
    }
  }
}

GPTQ_BACKEND_SUITE(SolveSameBits);

TEST(SolveOnTheCpu, AnyNumberOfThreadsGivesTheSameBits) {
  const Layer layer = make_layer(300, 140, 12);
  const auto one = test::make_test_backend("cpu", 1);
  for (const QuantizationSection& section : unlike_sections()) {
    const Solved expected = solve(*one, layer, section);
    for (const int threads : {2, 3}) {
      const auto many = test::make_test_backend("cpu", threads);
      const Solved got = solve(*many, layer, section);
      EXPECT_EQ(test::download<float>(*many, got.factor.r, 140 * 140),
                test::download<float>(*one, expected.factor.r, 140 * 140));
      EXPECT_TRUE(same_bits(expected.rows, got.rows)) << threads << " threads";
    }
  }
}

}  // namespace
}  // namespace gptq::solve_test
