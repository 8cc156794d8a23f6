#include <gtest/gtest.h>

#include <cmath>

#include "kernels/quality_fixture.h"

/// Layers of so few columns that all codes can be tried.
namespace gptq::solve_test {
namespace {

constexpr std::int64_t kRows = 200;

class RefineTiny : public test::BackendTest {
 protected:
  struct Losses {
    std::vector<double> solved, refined, best;
  };
  /// Two bits, one group: from the solve, refined without touching scales, and the best there is.
  Losses losses_of(std::int64_t n, bool sym, unsigned seed) {
    const QuantizationSection section = section_of(2, -1, sym, kOrderModes[1], "weighted");
    const Stage stage = make_stage(backend(), make_layer(kRows, n, seed), section);
    const SolveOptions options = Recipe(section).solve_options();
    const QuantizedRows solved = solve_stage(backend(), stage, options);
    const QuantizedRows refined = refine(backend(), stage, solved, options, {10, false});
    EXPECT_TRUE(reference::is_optimal_by_column(stage.layer.weight, stage.layer.hessian, refined,
                                                stage.factor.columns, options.max_code(), 1e-5));
    QuantizedRows best = solved;
    for (std::int64_t r = 0; r < kRows; ++r) {
      const auto row = static_cast<std::size_t>(r);
      std::vector<double> w;
      for (std::int64_t c = 0; c < n; ++c) w.push_back(stage.layer.weight.at(r, c));
      const std::vector<double> scale(w.size(), to_float(solved.scales[row]));
      const std::vector<int> zero(w.size(), solved.zeros[row]);
      const std::vector<int> codes = reference::best_codes(w, stage.layer.hessian, scale, zero, 3);
      std::copy(codes.begin(), codes.end(), best.codes.begin() + r * n);
    }
    return {losses(stage, solved), losses(stage, refined), losses(stage, best)};
  }
};

TEST_P(RefineTiny, LiesBetweenTheSolveAndTheBestOfAllCodes) {
  for (const std::int64_t n : {1, 2, 3}) {
    for (const bool sym : {true, false}) {
      SCOPED_TRACE(std::to_string(n) + (sym ? " columns" : " columns, asymmetric"));
      const Losses losses = losses_of(n, sym, 51);
      int optimal = 0, better = 0;
      for (std::size_t row = 0; row < losses.best.size(); ++row) {
        EXPECT_LE(losses.refined[row], losses.solved[row]);
        EXPECT_GE(losses.refined[row], losses.best[row] * (1 - 1e-9));
        optimal += losses.refined[row] <= losses.best[row] * (1 + 1e-4) + 1e-12;
        better += losses.refined[row] < losses.solved[row];
      }
      EXPECT_GE(optimal, n == 1 ? kRows : kRows * 3 / 4);
      if (n == 3) EXPECT_GT(better, 0);
    }
  }
}

// One column: w = s (c − z). The best scale for the code is w / (c − z), rounded to half precision.
TEST_P(RefineTiny, ScalesOfOneColumnFitIt) {
  const QuantizationSection section = section_of(3, -1, true, kOrderModes[0], "minmax");
  const Stage stage = make_stage(backend(), make_layer(50, 1, 52), section);
  const SolveOptions options = Recipe(section).solve_options();
  const QuantizedRows refined =
      refine(backend(), stage, solve_stage(backend(), stage, options), options, {3, true});
  for (std::int64_t r = 0; r < 50; ++r) {
    const auto row = static_cast<std::size_t>(r);
    const double w = stage.layer.weight.at(r, 0);
    const int unit = refined.codes[row] - refined.zeros[row];
    ASSERT_NE(unit, 0);
    EXPECT_NEAR(to_float(refined.scales[row]) * unit, w, 5e-4 * std::abs(w));
  }
}

// The scale that one sweep finds for codes that it cannot better is Σ u H w / (u H u), rounded.
TEST_P(RefineTiny, ScalesAreTheClosedForm) {
  const std::int64_t n = 6;
  const QuantizationSection section = section_of(4, -1, true, kOrderModes[2], "minmax");
  const Stage stage = make_stage(backend(), make_layer(60, n, 53), section);
  const SolveOptions options = Recipe(section).solve_options();
  const QuantizedRows solved = solve_stage(backend(), stage, options);
  const QuantizedRows end = refine(backend(), stage, solved, options, {60, true});
  for (std::int64_t r = 0; r < 60; ++r) {
    double gain = 0, curve = 0;
    const auto unit = [&](std::int64_t c) {
      return static_cast<double>(end.codes[static_cast<std::size_t>(r * n + c)]) -
             end.zeros[static_cast<std::size_t>(r)];
    };
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        gain += unit(i) * stage.layer.hessian.at(i, j) * stage.layer.weight.at(r, j);
        curve += unit(i) * stage.layer.hessian.at(i, j) * unit(j);
      }
    }
    const double scale = to_float(end.scales[static_cast<std::size_t>(r)]);
    EXPECT_NEAR(scale, gain / curve, 1e-3 * scale) << "row " << r;
  }
}

GPTQ_BACKEND_SUITE(RefineTiny);

}  // namespace
}  // namespace gptq::solve_test
