// Pipeline stages: on every grid the bytes of one rank, and a job that was interrupted on one goes on on
// another.

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "resume_fixture.h"

namespace gptq::test {
namespace {

using testing::HasSubstr;

struct Grid {
  int stages = 1, replicas = 1;
  int ranks() const { return stages * replicas; }
};

void PrintTo(const Grid& grid, std::ostream* out) {
  *out << grid.stages << "x" << grid.replicas;
}

std::vector<std::string> on(const Grid& grid, std::vector<std::string> more = {}) {
  more.insert(more.end(), {"--set", "parallel.stages=" + std::to_string(grid.stages), "--set",
                           "parallel.replicas=" + std::to_string(grid.replicas)});
  return more;
}

class Grids : public Resume {
 protected:
  /// Blocks enough for four stages, the last of them without one of its own in the end.
  void SetUp() override {
    Resume::SetUp();
    TinyModelOptions options;
    options.layers = 5;
    fs::remove_all(path("model"));
    write_tiny_model(path("model"), options);
  }

  std::string name_of(const Grid& grid) const {
    return fmt::format("grid-{}x{}", grid.stages, grid.replicas);
  }
  nlohmann::json report(const std::string& name) const {
    return nlohmann::json::parse(std::ifstream(path(name) + "/report.json"));
  }
  /// The report but for what says who did it and how long it took.
  nlohmann::json figures(const std::string& name) const {
    nlohmann::json layers = report(name).at("layers");
    for (nlohmann::json& layer : layers) layer.erase("seconds");
    return {{"layers", layers}, {"held_out", report(name).at("held_out")}};
  }

  void expect_the_same_on(const std::vector<Grid>& grids, const std::vector<std::string>& options) {
    const auto expected = hashes_of_run("one", 1, 1, options);
    ASSERT_FALSE(expected.empty());
    for (const Grid& grid : grids) {
      SCOPED_TRACE(name_of(grid));
      EXPECT_EQ(hashes_of_run(name_of(grid), grid.ranks(), 1, on(grid, options)), expected);
      if (HasFailure()) return;
      EXPECT_EQ(figures(name_of(grid)), figures("one"));
      EXPECT_EQ(run_program({"verify", path(name_of(grid))}).exit_code, 0);
    }
  }
};

struct Mode {
  const char* name;
  const char* lines;  ///< of the `quantization` section
  std::vector<std::string> set;
  std::vector<Grid> grids;
};

void PrintTo(const Mode& mode, std::ostream* out) {
  *out << mode.name;
}

class SameBytesOnGrids : public Grids, public testing::WithParamInterface<Mode> {};

TEST_P(SameBytesOnGrids, AsOnOneRank) {
  write_job(GetParam().lines);
  expect_the_same_on(GetParam().grids, GetParam().set);
}

const std::vector<std::string> kHeldOut{"--set", "calibration.held_out=0.34"};

INSTANTIATE_TEST_SUITE_P(
    Modes, SameBytesOnGrids,
    testing::Values(
        Mode{"default_recipe", "", {}, {{1, 3}, {2, 1}, {2, 2}, {4, 1}, {3, 1}}},
        Mode{"plain", "  quality: fast\n", kHeldOut, {{2, 1}, {2, 2}, {4, 1}}},
        Mode{"corrected_and_judged",
             "  refine_sweeps: 1\n  token_weight: residual\n",
             kHeldOut,
             {{2, 1}, {2, 2}}},
        Mode{"bf16", "", {"--set", "compute.dtype=bf16"}, {{2, 2}}},
        Mode{"not_sequential", "  true_sequential: false\n", kHeldOut, {{2, 1}, {2, 2}}},
        Mode{"head", "  rotation: hadamard\n  lm_head: true\n", kHeldOut, {{2, 1}, {4, 1}}},
        Mode{"stages_alone",
             "  exclude: ['re:.*o_proj']\n",
             {"--set", "parallel.solvers=stage", "--set", "output.max_shard_bytes=60000"},
             {{2, 1}, {2, 2}}},
        Mode{"full_precision",
             "  propagation: full_precision\n",
             kHeldOut,
             {{1, 3}, {2, 1}, {2, 2}, {4, 1}, {3, 1}}},
        Mode{"full_precision_weighed",
             "  propagation: full_precision\n  token_weight: residual\n  refine_sweeps: 1\n  lm_head: true\n"
             "  rotation: hadamard\n",
             kHeldOut,
             {{1, 2}, {2, 1}, {4, 1}}},
        Mode{"full_precision_bf16",
             "  propagation: full_precision\n",
             {"--set", "compute.dtype=bf16", "--set", "compute.activations=disk"},
             {{2, 2}}},
        Mode{"rtn",
             "  method: rtn\n  lm_head: true\n  rotation: hadamard\n",
             {},
             {{1, 3}, {2, 1}, {2, 2}, {4, 1}}}),
    [](const auto& test) { return std::string(test.param.name); });

using FullPrecision = Grids;

// The first block's Hessians come from its original weights in both.
TEST_F(FullPrecision, IsTheFirstBlockOfNotSequential) {
  write_job("  correction_alpha: 0\n");
  const auto not_sequential =
      hashes_of_run("not_sequential", 1, 1, {"--set", "quantization.true_sequential=false"});
  const auto full = hashes_of_run("full", 1, 1, {"--set", "quantization.propagation=full_precision"});
  ASSERT_EQ(full.size(), not_sequential.size());
  int same = 0, different = 0;
  for (std::size_t i = 0; i < full.size(); ++i) {
    if (full[i].first.find("qweight") == std::string::npos) continue;
    if (full[i].first.starts_with("model.layers.0.")) {
      EXPECT_EQ(full[i], not_sequential[i]);
      ++same;
    } else {
      different += full[i] != not_sequential[i] ? 1 : 0;
    }
  }
  EXPECT_EQ(same, 7);
  EXPECT_GT(different, 0);
}

TEST_F(FullPrecision, RefusesWhatItCannotMean) {
  write_job("  propagation: full_precision\n  correction_alpha: 1\n");
  ProgramResult result = quantize();
  EXPECT_EQ(result.exit_code, static_cast<int>(ExitCode::bad_usage)) << result.output;
  EXPECT_THAT(result.output, HasSubstr("no error of earlier layers to correct"));
  write_job("  propagation: full_precision\n");
  result = quantize(on({2, 1}, {"--set", "parallel.solvers=world"}), 2);
  EXPECT_EQ(result.exit_code, static_cast<int>(ExitCode::bad_usage)) << result.output;
  EXPECT_THAT(result.output, HasSubstr("every stage is busy"));
}

using GridsAndSamples = Grids;

TEST_F(GridsAndSamples, AGridLargerThanTheSamples) {
  expect_the_same_on({{2, 4}, {8, 1}}, {"--set", "calibration.num_samples=2"});
}

using Timeline = Grids;

TEST_F(Timeline, ShowsThePhasesOfEveryRank) {
  write_job("  propagation: full_precision\n");
  hashes_of_run("output", 2, 1, on({2, 1}, {"--trace", path("trace.json")}));
  const auto trace = nlohmann::json::parse(std::ifstream(path("trace.json")));
  std::map<int, std::map<std::string, std::set<int>>> blocks;  // of each rank and phase
  for (const nlohmann::json& event : trace.at("traceEvents")) {
    if (event.at("ph") != "X") continue;
    EXPECT_GE(event.at("ts").get<double>(), 0);
    EXPECT_GE(event.at("dur").get<double>(), 0);
    if (event.contains("args"))
      blocks[event.at("pid")][event.at("name")].insert(event["args"]["block"].get<int>());
  }
  ASSERT_EQ(blocks.size(), 2u);
  for (const char* phase : {"forward", "hessian", "factor", "solve", "read", "write"}) {
    EXPECT_EQ(blocks[0][phase], (std::set<int>{0, 2, 4})) << phase;
    EXPECT_EQ(blocks[1][phase], (std::set<int>{1, 3})) << phase;
  }
  const nlohmann::json ranks = report("output").at("ranks");
  ASSERT_EQ(ranks.size(), 2u);
  for (const nlohmann::json& rank : ranks) {
    EXPECT_GT(rank.at("seconds").get<double>(), 0);
    EXPECT_THAT(rank.at("idle_share").get<double>(), testing::AllOf(testing::Ge(0), testing::Le(1)));
  }
}

class ResumeOnGrids : public Grids {
 protected:
  void make_long(const std::string& lines);

  /// Interrupts the job on one grid when so many generations are there, and goes on on another.
  void interrupt_and_resume(const Grid& from, int generation, const Grid& to) {
    SCOPED_TRACE(fmt::format("{} after {} on {}", name_of(from), generation, name_of(to)));
    fs::remove_all(path("output"));
    ranks_ = from.ranks();
    ASSERT_EQ(interrupt(generation, SIGUSR1, on(from)), kComeBack);
    const ProgramResult resumed = quantize(on(to), to.ranks());
    ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
    EXPECT_THAT(resumed.output, HasSubstr("resuming from generation"));
    EXPECT_EQ(tensor_hashes(path("output")), tensor_hashes(path("undisturbed")));
    EXPECT_EQ(figures("output"), figures("undisturbed"));
    EXPECT_EQ(run_program({"verify", path("output")}).exit_code, 0);
    EXPECT_FALSE(fs::exists(checkpoint()));
  }
};

TEST_F(ResumeOnGrids, FromOneToMany) {
  write_job("  correction_alpha: 1\n");
  hashes_of_run("undisturbed", 1, 1);
  interrupt_and_resume({1, 1}, 9, {2, 2});
  interrupt_and_resume({2, 1}, 3, {1, 3});
}

TEST_F(ResumeOnGrids, FromManyToOthers) {
  write_job("  correction_alpha: 1\n");
  hashes_of_run("undisturbed", 1, 1);
  interrupt_and_resume({2, 1}, 15, {4, 1});
  interrupt_and_resume({2, 2}, 11, {3, 1});
}

TEST_F(ResumeOnGrids, InsideABlockThatIsNotSequential) {
  write_job("  true_sequential: false\n");
  hashes_of_run("undisturbed", 1, 1);
  interrupt_and_resume({3, 1}, 7, {1, 1});
}

/// Blocks enough for the signal to come before the last of them.
void ResumeOnGrids::make_long(const std::string& lines) {
  TinyModelOptions options;
  options.layers = 24;
  fs::remove_all(path("model"));
  write_tiny_model(path("model"), options);
  write_job(lines);
  hashes_of_run("undisturbed", 1, 1);
}

TEST_F(ResumeOnGrids, FullPrecisionBetweenRounds) {
  make_long("  propagation: full_precision\n");
  interrupt_and_resume({1, 1}, 2, {2, 2});
  interrupt_and_resume({2, 1}, 1, {1, 3});
  interrupt_and_resume({3, 1}, 1, {2, 1});
}

TEST_F(ResumeOnGrids, RoundsOfStagesThatWorkAlone) {
  make_long("  method: rtn\n");
  interrupt_and_resume({1, 1}, 2, {2, 1});
  interrupt_and_resume({2, 1}, 1, {1, 1});
  interrupt_and_resume({2, 1}, 1, {2, 2});
}

}  // namespace
}  // namespace gptq::test
