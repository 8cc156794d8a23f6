// Ranks that have neither sums nor weights solve a part of the rows: the result is that of one rank alone, in
// every bit, whichever rank owns the sums and however many ranks hold the block.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "backend/cpu_backend.h"
#include "mpi_world.h"
#include "pipeline/stage_solver.h"
#include "support/reference_forward.h"

namespace gptq::test {
namespace {

using reference::Array;

constexpr std::int64_t kColumns = 96;
constexpr std::int64_t kTokens = 160;
constexpr std::int64_t kHeldOutTokens = 20;

std::vector<float> column_magnitudes(const Array& x) {
  std::vector<float> maximum(static_cast<std::size_t>(x.cols));
  for (std::size_t i = 0; i < x.values.size(); ++i) {
    float& most = maximum[i % maximum.size()];
    most = std::max(most, static_cast<float>(std::abs(x.values[i])));
  }
  return maximum;
}

/// A stage group: its sums, its layers, and held-out samples.
class Group {
 public:
  Group(Backend& backend, CorrectionTarget target, bool with_cross, std::vector<std::int64_t> rows,
        DType weights = DType::bf16)
      : backend_(backend), rows_(std::move(rows)), target_(target) {
    const Array x = reference::random_array(kTokens, kColumns, DType::f32, 3);
    const HostTensor inputs = reference::to_tensor(x, DType::f32);
    sums_.hessian = make_hessian_sum(backend, column_magnitudes(x), kTokens);
    accumulate_hessian(backend.kernels(), inputs.matrix(), sums_.hessian.exponents, sums_.hessian.values());
    if (with_cross) {
      const std::int64_t width = target == CorrectionTarget::residual ? rows_[0] : kColumns;
      const Array d = reference::random_array(kTokens, width, DType::f32, 5, 0.3);
      sums_.cross = make_cross_sum(backend, target, column_magnitudes(d), kColumns, kTokens);
      const HostTensor differences = reference::to_tensor(d, DType::f32);
      backend.kernels().accumulate_cross(differences.matrix(), sums_.cross.d_exponents, inputs.matrix(),
                                         sums_.hessian.exponents, sums_.cross.values());
    }
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      const auto seed = static_cast<unsigned>(11 + i);
      weights_.push_back(
          reference::to_tensor(reference::random_array(rows_[i], kColumns, weights, seed, 0.05), weights));
      prepared_.push_back(backend.kernels().prepare_linear(weights_.back().matrix(), {}, DType::f32));
    }
    data_.samples.assign(1, std::vector<std::int32_t>(kHeldOutTokens, 1));
  }

  /// H_01 becomes so many times √(H_00 H_11): above 1 no positive definite matrix without more damping.
  void spoil(double factor) {
    const auto at = [&](std::int64_t i, std::int64_t j) -> std::int64_t& {
      return sums_.hessian.values()[TriangularPanels::index(kColumns, i, j)];
    };
    at(0, 1) =
        std::llround(factor * std::sqrt(static_cast<double>(at(0, 0)) * static_cast<double>(at(1, 1))));
  }

  void ask_for_tokens(std::int64_t tokens) { min_tokens_ = tokens; }

  std::vector<LayerToQuantize> layers(bool with_weights) const {
    std::vector<LayerToQuantize> layers;
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      const std::string name = "layer" + std::to_string(i);
      LayerToQuantize layer{"model." + name, name, nullptr, nullptr, {}, rows_[i], kColumns};
      if (with_weights) {
        layer.weight = &weights_[i];
        layer.prepared = prepared_[i].get();
      }
      layers.push_back(std::move(layer));
    }
    return layers;
  }

  /// By the ranks that hold the block. judging: of them, those among which the held-out samples lie, with the
  /// first; null: none are held out.
  SolvedStage solve(const Team& team, const Recipe& recipe, Communicator* judging) {
    PhaseClock phases(backend_);
    StageSolver solver(backend_, team, recipe, kTokens, 4, min_tokens_, phases);
    if (judging == nullptr) return solver.solve(sums_, layers(true), 0, nullptr);
    std::vector<Chunk> chunks;
    if (judging->is_root()) chunks.push_back({0, 0, 1, kHeldOutTokens, true});
    Activations held_out(backend_, data_, chunks, rows_[0], kColumns, DType::f32, {});
    Activations reference(backend_, data_, chunks, rows_[0], kColumns, DType::f32, {});
    if (judging->is_root()) {
      fill(held_out, 23);
      fill(reference, 29);
    }
    StageInput input(held_out, &reference, kColumns);
    input.corrected = target_ == CorrectionTarget::residual;
    input.target = target_;
    HeldOutJudge judge(backend_, *judging, input, DType::f32, phases);
    return solver.solve(sums_, layers(true), 0, &judge);
  }

  SolvedStage help(const Team& team, const Recipe& recipe) {
    PhaseClock phases(backend_);
    return StageSolver(backend_, team, recipe, kTokens, 4, min_tokens_, phases).help(layers(false), 0);
  }

 private:
  void fill(Activations& rows, unsigned seed) const {
    const auto values = [&](std::int64_t width) {
      return reference::to_tensor(reference::random_array(kHeldOutTokens, width, DType::f32, seed),
                                  DType::f32);
    };
    rows.write_x(0, 0, values(kColumns).matrix());
    rows.write_hidden(0, 0, values(rows_[0]).matrix());
  }

  Backend& backend_;
  std::vector<std::int64_t> rows_;
  CorrectionTarget target_;
  std::int64_t min_tokens_ = 0;
  StageSums sums_;
  std::vector<HostTensor> weights_;
  std::vector<std::unique_ptr<LinearWeights>> prepared_;
  CalibrationData data_;
};

void expect_same(const SolvedStage& found, const SolvedStage& expected) {
  ASSERT_EQ(found.layers.size(), expected.layers.size());
  for (std::size_t i = 0; i < expected.layers.size(); ++i) {
    const QuantizedLayer &a = found.layers[i], &b = expected.layers[i];
    EXPECT_EQ(a.codes, b.codes);
    EXPECT_TRUE(a.scales.size() == b.scales.size() &&
                std::memcmp(a.scales.data(), b.scales.data(), a.scales.size() * sizeof(f16)) == 0);
    EXPECT_EQ(a.zeros, b.zeros);
    EXPECT_EQ(a.group_of, b.group_of);
    const LayerStatistics &x = found.statistics[i], &y = expected.statistics[i];
    EXPECT_EQ(x.loss, y.loss);
    EXPECT_EQ(x.relative_output_error, y.relative_output_error);
    EXPECT_EQ(x.held_out_error, y.held_out_error);
    EXPECT_EQ(x.variant, y.variant);
    EXPECT_EQ(x.damp_percent, y.damp_percent);
    EXPECT_EQ(x.damping_steps, y.damping_steps);
    EXPECT_EQ(x.fallback, y.fallback);
    EXPECT_EQ(x.fallback_reason, y.fallback_reason);
    EXPECT_EQ(x.refinement_gain, y.refinement_gain);
  }
}

/// Every team of the world with one run of ranks that hold the block, against a rank alone, whose result is
/// returned.
SolvedStage check(const QuantizationSection& section, Group group, bool judged) {
  const Recipe recipe(section);
  const auto alone = world().split(world().rank());
  const auto own = make_host_collectives(*alone);
  const auto shared = make_host_collectives(world());
  const SolvedStage expected = group.solve({*alone, *own}, recipe, judged ? alone.get() : nullptr);
  for (int root = 0; root < world().size(); ++root) {
    for (int holders = 1; root + holders <= world().size(); ++holders) {
      SCOPED_TRACE(testing::Message() << holders << " ranks from " << root << " on hold the block");
      const Team team{world(), *shared, root, holders};
      const bool helps = team.helps(world().rank());
      const auto part = world().split(helps ? 1 : 0);
      expect_same(helps ? group.help(team, recipe) : group.solve(team, recipe, judged ? part.get() : nullptr),
                  expected);
    }
  }
  return expected;
}

class HelpingRanks : public testing::Test {
 protected:
  Group group(CorrectionTarget target, bool with_cross, std::vector<std::int64_t> rows,
              DType weights = DType::bf16) {
    return {*backend_, target, with_cross, std::move(rows), weights};
  }

  std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
};

TEST_F(HelpingRanks, PlainGptq) {
  QuantizationSection section;
  section.group_size = 32;
  check(section, group(CorrectionTarget::output, false, {200, 130}), false);
}

TEST_F(HelpingRanks, OneScaleForAWholeLayer) {
  QuantizationSection section;
  section.per_channel = false;
  section.group_size = -1;
  check(section, group(CorrectionTarget::output, false, {200, 70}), false);
}

TEST_F(HelpingRanks, RefinementAndCandidates) {
  QuantizationSection section;
  section.group_size = 32;
  section.refine_sweeps = 2;
  section.best_of = {"damp_percent=0.01"};
  check(section, group(CorrectionTarget::output, false, {130, 70}), false);
}

TEST_F(HelpingRanks, CorrectionTowardsTheOutputJudgedOnHeldOutSamples) {
  QuantizationSection section;
  section.bits = 3;
  section.group_size = 32;
  section.correction_alpha = 1;
  section.correction_target = "output";
  section.correction_layers = {"layer1"};
  section.refine_sweeps = 1;
  check(section, group(CorrectionTarget::output, true, {130, 200}), true);
}

TEST_F(HelpingRanks, CorrectionTowardsTheResidualStream) {
  QuantizationSection section;
  section.group_size = 32;
  section.correction_alpha = 1;
  section.correction_target = "residual";
  check(section, group(CorrectionTarget::residual, true, {200}), false);
}

TEST_F(HelpingRanks, LayersWithValuesOfTheirOwnAreClasses) {
  QuantizationSection section;
  section.group_size = 32;
  section.dynamic = {{".*layer1", {{"bits", "8"}, {"desc_act", "true"}, {"act_group_aware", "false"}}}};
  check(section, group(CorrectionTarget::output, false, {64, 130, 64}), false);
}

TEST_F(HelpingRanks, CorrectionTowardsTheResidualStreamJudgedOnHeldOutSamples) {
  QuantizationSection section;
  section.group_size = 32;
  section.correction_alpha = 1;
  section.correction_target = "residual";
  section.refine_sweeps = 1;
  const SolvedStage solved = check(section, group(CorrectionTarget::residual, true, {130}), true);
  EXPECT_GT(solved.statistics[0].held_out_error, 0);
}

TEST_F(HelpingRanks, OneScaleForAWholeLayerThatIsRefined) {
  QuantizationSection section;
  section.per_channel = false;
  section.group_size = -1;
  section.refine_sweeps = 2;
  check(section, group(CorrectionTarget::output, false, {200, 70}), true);
}

TEST_F(HelpingRanks, WeightsOfOtherTypes) {
  QuantizationSection section;
  section.group_size = 32;
  for (const DType weights : {DType::f16, DType::f32})
    check(section, group(CorrectionTarget::output, false, {130, 70}, weights), false);
}

TEST_F(HelpingRanks, TooFewTokens) {
  QuantizationSection section;
  section.group_size = 32;
  section.correction_alpha = 1;
  section.refine_sweeps = 1;
  Group thin = group(CorrectionTarget::output, true, {130, 70});
  thin.ask_for_tokens(kTokens + 1);
  EXPECT_TRUE(check(section, std::move(thin), true).statistics[0].fallback);
}

TEST_F(HelpingRanks, DampingThatIsIncreased) {
  QuantizationSection section;
  section.group_size = 32;
  section.damp_percent = 0.01;
  section.refine_sweeps = 1;
  Group spoiled = group(CorrectionTarget::output, false, {130, 70});
  spoiled.spoil(1.2);
  const SolvedStage solved = check(section, std::move(spoiled), false);
  EXPECT_GT(solved.statistics[0].damping_steps, 0);
  EXPECT_FALSE(solved.statistics[0].fallback);
}

TEST_F(HelpingRanks, AHessianThatNoDampingHelpsIsNotCorrectedNorJudgedTwice) {
  QuantizationSection section;
  section.group_size = 32;
  section.correction_alpha = 1;
  section.refine_sweeps = 1;
  Group spoiled = group(CorrectionTarget::output, true, {130, 70});
  spoiled.spoil(4);
  EXPECT_TRUE(check(section, std::move(spoiled), true).statistics[0].fallback);
}

TEST_F(HelpingRanks, ACandidateThatCannotBeFactoredIsPassedOver) {
  QuantizationSection section;
  section.group_size = 32;
  section.damp_percent = 0.9;
  section.damp_auto_increment = 0;
  section.refine_sweeps = 1;
  section.best_of = {"damp_percent=0.01", "damp_percent=0.95"};
  Group spoiled = group(CorrectionTarget::output, false, {130, 70});
  spoiled.spoil(1.2);
  EXPECT_FALSE(check(section, std::move(spoiled), false).statistics[0].fallback);
}

}  // namespace
}  // namespace gptq::test
