#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <numeric>

#include "pipeline/plan_command.h"
#include "support/temp_directory.h"
#include "unit/hollow_model.h"

namespace gptq::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr double kFast = 1e30;
constexpr std::int64_t kHidden = 64, kInner = 192, kBlocks = 6;

/// Everything takes no time; a test makes one thing slow.
Machine fast_machine() {
  Machine machine;
  machine.name = "test";
  machine.source = "a test";
  machine.node = {64, 64, 1'000'000'000'000};
  for (const KernelName& kernel : kernel_names()) machine.kernels[kernel.name] = {{1, kFast}};
  machine.link = machine.fabric = {0, kFast, kFast, 0};
  machine.files = {0, kFast, kFast, kFast, kFast, kFast};
  return machine;
}

class ForecastOfAJob : public testing::Test {
 protected:
  ForecastOfAJob() {
    write_hollow_model(directory_.path(), {kHidden, kInner, kBlocks, 4, 4, 256, "F32"});
    job_.model.path = directory_.path().string();
    job_.compute.dtype = "fp32";
    job_.compute.threads = 1;
    job_.calibration.chunk_tokens = 128;
    job_.checkpoint.enabled = false;
  }

  PlanRequest request(int ranks, int samples = 16) const {
    PlanRequest request{job_, ModelShape(directory_.path(), false),
                        std::vector<std::int64_t>(static_cast<std::size_t>(samples), 128)};
    return on_machine(request, machine_, ranks);
  }

  SimulatedJob simulated(GridShape grid, bool full_precision = false) const {
    const PlanRequest asked = request(grid.ranks());
    GridChoice choice;
    choice.grid = grid;
    choice.ranks_on_node = asked.ranks_on_node;
    choice.full_precision = full_precision;
    return simulate(asked, make_plan(asked), machine_, choice);
  }

  /// Without what a job always begins with.
  double work_seconds(GridShape grid) const { return simulated(grid).seconds - 0.25; }

  void set_rate(const std::string& kernel, double rate) { machine_.kernels[kernel] = {{1, rate}}; }

  TempDirectory directory_;
  JobConfig job_;
  Machine machine_ = fast_machine();
};

constexpr double kParameters = 4.0 * kHidden * kHidden + 3.0 * kHidden * kInner;
constexpr double kTokens = 16 * 128;

TEST_F(ForecastOfAJob, EachLinearIsAppliedOnceAToken) {
  set_rate("linear.f32", 1e9);
  const double alone = kBlocks * 2 * kParameters * kTokens / 1e9;
  EXPECT_NEAR(work_seconds({1, 1}), alone, 1e-9 * alone);
  EXPECT_NEAR(work_seconds({1, 4}), alone / 4, 1e-9 * alone);
  EXPECT_NEAR(work_seconds({1, 16}), alone / 16, 1e-9 * alone);
  EXPECT_NEAR(work_seconds({1, 32}), alone / 16, 1e-9 * alone) << "16 chunks: half of the ranks have none";
  EXPECT_NEAR(work_seconds({2, 2}), alone / 2, 1e-9 * alone) << "stages take turns";
  job_.quantization.true_sequential = false;
  EXPECT_NEAR(work_seconds({1, 1}), 2 * alone, 1e-9 * alone);
}

TEST_F(ForecastOfAJob, ASumCostsItsTriangle) {
  set_rate("hessian.f32", 1e9);
  const double n2 = 3.0 * kHidden * kHidden + 1.0 * kInner * kInner;
  EXPECT_NEAR(work_seconds({1, 2}), kBlocks * n2 * kTokens / 2 / 1e9, 1e-9);
}

TEST_F(ForecastOfAJob, TheRootFactorsAndTheOthersWait) {
  set_rate("factor", 1e7);
  const double cubes = 3 * std::pow(kHidden, 3) + std::pow(kInner, 3);
  const double all = kBlocks * cubes / 3 / 1e7;
  for (const int ranks : {1, 2, 8, 32}) EXPECT_NEAR(work_seconds({1, ranks}), all, 1e-9 * all) << ranks;
  const SimulatedJob two = simulated({1, 2});
  EXPECT_NEAR(two.most_idle, all / two.seconds, 1e-6);
  EXPECT_NEAR(two.least_idle, 0, 1e-6);
  EXPECT_THAT(two.limited_by(), HasSubstr("factor"));
}

TEST_F(ForecastOfAJob, RowsAreSharedByAllRanksHelpersToo) {
  set_rate("solve", 1e7);
  const double one = work_seconds({1, 1});
  // Panels of 64 rows: q, k and v have three, gate and up six, the others one each.
  const double n2 = kHidden * kHidden;
  EXPECT_NEAR(one, kBlocks * 2 * 64 * (3 * n2 + n2 + 6 * n2 + 9 * n2) / 1e7, 1e-6);
  const double three = kBlocks * 2 * 64 * (n2 + n2 + 2 * n2 + 9 * n2) / 1e7;
  EXPECT_NEAR(work_seconds({1, 3}), three, 1e-6);
  EXPECT_NEAR(work_seconds({3, 1}), three, 1e-6);
}

TEST_F(ForecastOfAJob, SumsGoRoundARing) {
  machine_.link = {0, 1e6, 4e6, 0};
  const SimulatedJob job = simulated({1, 4});
  double sums = 0, factors = 0;
  for (const std::int64_t n : {kHidden, kHidden, kHidden, kInner}) {
    sums += 8.0 * static_cast<double>(TriangularPanels::size(n));
    factors += 4.0 * static_cast<double>(n * n);
  }
  const double expected = kBlocks * (2 * 0.75 * sums + factors) / 1e6;
  EXPECT_NEAR(job.root.at("reduce"), expected, 1e-6 * expected);
  EXPECT_EQ(job.links.fabric, 0);
  EXPECT_GT(job.links.node, kBlocks * 4 * 1.5 * sums);
  machine_.node.ranks = 2;
  EXPECT_NEAR(simulated({1, 4}).links.fabric, 0.5 * job.links.node, 1e-6 * job.links.node)
      << "two nodes of two: every second message of the ring leaves its node";
}

TEST_F(ForecastOfAJob, AFileSystemIsSharedByNodesAndReadOnceANode) {
  const double bytes = kBlocks * 4 * kParameters;
  machine_.files.all = bytes;
  machine_.files.node = bytes;
  EXPECT_NEAR(simulated({1, 4}).read_bytes, bytes, 1e-6 * bytes);
  machine_.node.ranks = 1;
  EXPECT_NEAR(simulated({1, 4}).read_bytes, 4 * bytes, 1e-6 * bytes);
  EXPECT_NEAR(simulated({2, 2}).read_bytes, 2 * bytes, 1e-6 * bytes) << "a stage reads its own blocks";
  EXPECT_NEAR(work_seconds({1, 1}), 1, 1e-6) << "nothing else takes time";
  EXPECT_NEAR(work_seconds({1, 4}), 4, 1e-6);
}

TEST_F(ForecastOfAJob, ARankGoesThroughThePhasesInTheJobsOrder) {
  const std::vector<std::string> order = simulated({1, 2}).order;
  const std::vector<std::string> first(order.begin(), order.begin() + 17);
  EXPECT_THAT(first, ElementsAre("start", "measure", "embed", "load", "load", "forward", "hessian", "reduce",
                                 "factor", "reduce", "factor", "solve", "gather", "gather", "forward",
                                 "checkpoint", "hessian"));
}

// docs/performance.md's phases as rates, as in the note on the schedules: forward, factors and solves of like
// size.
TEST_F(ForecastOfAJob, StagesOverlapWhereTheStreamIsUnquantized) {
  set_rate("linear.f32", 1e9);
  set_rate("hessian.f32", 1e9);
  set_rate("factor", 2e7);
  set_rate("solve", 3e8);
  const double replicas = simulated({1, 2}, true).seconds - 0.25;
  const double stages = simulated({2, 1}, true).seconds - 0.25;
  EXPECT_LT(stages, 1.2 * replicas);
  EXPECT_LT(work_seconds({2, 1}), work_seconds({1, 1})) << "a stage that waits helps with the rows";
  EXPECT_GT(work_seconds({2, 1}), work_seconds({1, 2})) << "with quantized propagation replicas are faster";
}

TEST_F(ForecastOfAJob, RanksThatShareCoresShareTheirTime) {
  set_rate("linear.f32", 1e9);
  machine_.node = {4, 2, 1'000'000'000'000};
  machine_.together = {1, 0.9};
  const double alone = kBlocks * 2 * kParameters * kTokens / 1e9;
  EXPECT_NEAR(work_seconds({1, 2}), alone / 2 / 0.9, 1e-6 * alone);
  EXPECT_NEAR(work_seconds({1, 4}), alone / 2 / 0.9, 1e-6 * alone) << "four ranks on two cores";
}

TEST_F(ForecastOfAJob, ReplicasAreChosenAndTheReasonsSaid) {
  set_rate("linear.f32", 1e9);
  const Forecast forecast = choose(request(4), machine_, {});
  EXPECT_EQ(forecast.choice.grid, (GridShape{1, 4}));
  EXPECT_THAT(forecast_text(forecast),
              AllOf(HasSubstr("NOT measured: a test"), HasSubstr("1 stage(s) x 4 replica(s)"),
                    HasSubstr("2 x 2 would take"), HasSubstr("one stage works at a time")));
  EXPECT_EQ(choose(request(4), machine_, parse_grid("2x2")).choice.grid, (GridShape{2, 2}));
}

TEST_F(ForecastOfAJob, WhatReadingLimitsIsSaidAndStagesAreOffered) {
  machine_.node.ranks = 1;
  machine_.files.all = kBlocks * 4 * kParameters;  // a second for each node that reads all
  set_rate("linear.f32", 1e12);
  const Forecast forecast = choose(request(4), machine_, {});
  EXPECT_EQ(forecast.choice.grid, (GridShape{1, 4}));
  EXPECT_THAT(forecast.simulated.limited_by(), HasSubstr("reading files: 9"));
  EXPECT_THAT(forecast_text(forecast), AllOf(HasSubstr("4 x 1 would take"),
                                             HasSubstr("less than the chosen one: set parallel.stages")));
  const Forecast asked = choose(request(4), machine_, {4, 1});
  EXPECT_LT(asked.simulated.seconds, forecast.simulated.seconds / 2);
  EXPECT_THAT(forecast_text(asked), HasSubstr("4 stage(s) x 1 replica(s)"));
}

TEST_F(ForecastOfAJob, TheBoundIsNoMoreThanTheSimulatedTime) {
  for (const char* kernel : {"linear.f32", "hessian.f32", "solve", "decode"}) {
    machine_ = fast_machine();
    set_rate(kernel, 1e8);
    machine_.files.all = 3e6;
    for (const GridShape& grid : {GridShape{1, 8}, {2, 4}, {3, 2}, {6, 1}}) {
      const PlanRequest asked = request(grid.ranks());
      const Forecast forecast = choose(asked, machine_, {grid.stages, grid.replicas});
      EXPECT_GE(forecast.simulated.seconds, forecast.bound) << kernel << " " << grid.stages;
      EXPECT_GT(forecast.bound, 0);
    }
  }
}

TEST_F(ForecastOfAJob, CheckpointsAreWrittenAsOftenAsTheIntervalAsks) {
  job_.checkpoint.enabled = true;
  job_.checkpoint.interval = 1;
  set_rate("linear.f32", kBlocks * 2 * kParameters * kTokens / 3.5);  // the job takes 3.75 s
  EXPECT_EQ(simulated({1, 1}).checkpoints, 3);
  const double without = simulated({1, 1}).seconds;
  machine_.files.cached = 4.0 * kHidden * kTokens;  // a copy takes a second
  EXPECT_NEAR(simulated({1, 1}).seconds, without + 3, 1e-3);
  machine_.files.cached = kFast;
  machine_.files.write_all =
      4.0 * kHidden * kTokens / 4;  // writing takes four: longer than the way to the next
  EXPECT_GT(simulated({1, 1}).seconds, without + 2);
  job_.checkpoint.interval = 100;
  EXPECT_EQ(simulated({1, 1}).checkpoints, 0);
}

TEST_F(ForecastOfAJob, RowsThatLieOnTheHostAreCopiedBesideTheKernels) {
  machine_.device = {"test", 1'000'000'000'000, 0, 0, 0};
  job_.compute.activations = "host";
  const double without = work_seconds({1, 1});
  machine_.device.copy = 1e6;
  // Each step's input is written once and read twice, by the sum and by its linears; the stream is read by
  // four norms and linears, and written by two of these.
  const double rows = 3 * 4.0 * (3 * kHidden + kInner) + 4.0 * kHidden * (1 + 2 + 2);
  EXPECT_NEAR(work_seconds({1, 1}) - without, kBlocks * kTokens * rows / 1e6, 1e-3);
  const PlanRequest asked = request(1);
  EXPECT_THAT(forecast_text(choose(asked, machine_, {})), Not(HasSubstr("copies is not counted")));
  machine_.device.copy = 0;
  EXPECT_THAT(forecast_text(choose(asked, machine_, {})), HasSubstr("copies is not counted"));
}

TEST_F(ForecastOfAJob, NodesWithoutALinkBetweenThemAreRefused) {
  machine_.fabric = {};
  machine_.node.ranks = 2;
  EXPECT_NO_THROW(request(2));
  EXPECT_THROW(request(4), UsageError);
}

TEST_F(ForecastOfAJob, AGridThatTheRanksCannotMakeIsRefusedWithTheNearest) {
  try {
    choose(request(8), machine_, {3, 0});
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("3 stages x any replicas"), HasSubstr("8 ranks"),
                                    HasSubstr("Nearest: 2x4 or 4x2")));
  }
  EXPECT_THROW(parse_grid("2"), UsageError);
  EXPECT_THROW(parse_grid("0x4"), UsageError);
}

TEST_F(ForecastOfAJob, WhatDoesNotFitIsRefusedWithWhatWould) {
  machine_.node.memory = 200'000'000;
  try {
    choose(request(4), machine_, {});
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("4 rank(s) share 200.0 MB"), HasSubstr("of the ranks a node")));
  }
}

TEST_F(ForecastOfAJob, AConfigAlonePlansLikeTheModelItself) {
  const ModelWeights model(directory_.path());
  const ModelShape with(model), without(directory_.path(), false);
  EXPECT_TRUE(with.has_weights());
  EXPECT_FALSE(without.has_weights());
  EXPECT_EQ(with.source_bytes(), without.source_bytes());
  EXPECT_EQ(with.head_bytes(), without.head_bytes());
  const std::vector<std::int64_t> lengths(16, 128);
  EXPECT_EQ(make_plan(on_machine({job_, with, lengths}, machine_, 2)).text(1e9, 1e9),
            make_plan(on_machine({job_, without, lengths}, machine_, 2)).text(1e9, 1e9));
}

TEST_F(ForecastOfAJob, ACurveHasALineForEachNumberOfRanks) {
  set_rate("linear.f32", 1e9);
  const auto path = directory_.path() / "machine.yaml";
  std::ofstream(path) << to_yaml(machine_);
  ForecastOptions options;
  options.machine = path.string();
  options.samples = "16x128";
  const auto forecasts = forecast_scaling(job_, options, "1..32");
  ASSERT_EQ(forecasts.size(), 6u);
  EXPECT_EQ(forecasts.back().choice.grid.ranks(), 32);
  EXPECT_THAT(scaling_csv(forecasts), AllOf(HasSubstr("\n1,1,1,"), HasSubstr("\n32,")));
  EXPECT_THROW(forecast_scaling(job_, options, "8..1"), UsageError);
  EXPECT_THROW(parse_samples("16"), UsageError);
}

}  // namespace
}  // namespace gptq::test
