// What goes beyond plain GPTQ, from outside: its promises hold for the whole program.

#include <fstream>
#include <nlohmann/json.hpp>

#include "job_fixture.h"

namespace gptq::test {
namespace {

using testing::HasSubstr;

class Quality : public JobTest {
 protected:
  nlohmann::json report(const std::string& name) const {
    return nlohmann::json::parse(std::ifstream(path(name) + "/report.json"));
  }
};

const std::vector<std::string> kEverything{
    "--set", "quantization.quality=best", "--set", "quantization.token_weight=residual",
    "--set", "calibration.held_out=0.2",  "--set", "quantization.best_of=[damp_percent=0.01]"};

TEST_F(Quality, SameBytesForAnyRanksAndThreads) {
  for (const std::string dtype : {"fp32", "bf16"}) {
    std::vector<std::string> options = kEverything;
    options.insert(options.end(), {"--set", "compute.dtype=" + dtype});
    const auto reference = hashes_of_run(dtype + "-one", 1, 1, options);
    ASSERT_FALSE(reference.empty());
    EXPECT_TRUE(hashes_of_run(dtype + "-two-two-threads", 2, 2, options) == reference);
    EXPECT_TRUE(hashes_of_run(dtype + "-three", 3, 1, options) == reference);
    EXPECT_TRUE(hashes_of_run(dtype + "-four", 4, 1, options) == reference);
  }
}

TEST_F(Quality, SameBytesForAnyRanksTowardsOutputs) {
  const std::vector<std::string> options{"--set", "quantization.quality=default", "--set",
                                         "quantization.correction_target=output"};
  const auto reference = hashes_of_run("one", 1, 1, options);
  ASSERT_FALSE(reference.empty());
  EXPECT_TRUE(hashes_of_run("three", 3, 1, options) == reference);
  EXPECT_TRUE(hashes_of_run("residual", 1, 1, {"--set", "quantization.quality=default"}) != reference);
}

TEST_F(Quality, AimingAtTheResidualStreamLowersTheHeldOutError) {
  const auto error_of = [&](const std::string& target) {
    const std::vector<std::string> options{
        "--set", "calibration.held_out=0.3",     "--set", "quantization.bits=3",
        "--set", "quantization.quality=default", "--set", "quantization.correction_target=" + target};
    EXPECT_FALSE(hashes_of_run(target, 1, 1, options).empty());
    return report(target)["held_out"]["relative_hidden_error"].get<double>();
  };
  EXPECT_LT(error_of("residual"), error_of("output"));
}

TEST_F(Quality, NoneOfItIsPlainGptq) {
  const auto plain = hashes_of_run("plain", 1, 1, {"--set", "quantization.quality=fast"});
  EXPECT_EQ(
      hashes_of_run("off", 1, 1,
                    {"--set", "quantization.quality=best", "--set", "quantization.rotation=none", "--set",
                     "quantization.correction_alpha=0", "--set", "quantization.refine_sweeps=0"}),
      plain);
  EXPECT_NE(hashes_of_run("corrected", 1, 1, {"--set", "quantization.quality=default"}), plain);
}

// In the first stage group nothing lies before the layers that could be made up for.
TEST_F(Quality, RefinementAndCandidatesNeverRaiseTheExactLoss) {
  hashes_of_run("plain", 1, 1);
  hashes_of_run("refined", 1, 1, {"--set", "quantization.refine_sweeps=2"});
  hashes_of_run("candidates", 1, 1, {"--set", "quantization.best_of=[scale_search=mse, damp_percent=0.01]"});
  for (const char* name : {"refined", "candidates"}) {
    for (std::size_t i = 0; i < 3; ++i) {
      const auto error = [&](const char* run) {
        return report(run)["layers"][i]["relative_output_error"].get<double>();
      };
      EXPECT_LT(error(name), error("plain")) << name << ", layer " << i;
    }
  }
}

TEST_F(Quality, HeldOutSamplesEnterNoHessian) {
  const ProgramResult result =
      quantize({"--set", "calibration.held_out=0.3", "--set", "quantization.quality=default"});
  ASSERT_EQ(result.exit_code, 0) << result.output;
  const nlohmann::json made = report("output");
  for (const auto& layer : made["layers"]) {
    EXPECT_LT(layer["samples"], made["summary"]["samples"]);
    EXPECT_GT(layer["held_out_error"].get<double>(), 0);
    EXPECT_LT(layer["held_out_error"].get<double>(), 1);
  }
}

TEST_F(Quality, TooFewTokensAreCountedAndFailTheJob) {
  const std::vector<std::string> options{"--set", "fallback.min_tokens=1000000"};
  const ProgramResult refused = quantize(options);
  EXPECT_EQ(refused.exit_code, 5) << refused.output;
  EXPECT_THAT(refused.output, HasSubstr("fallback.max_layers"));
  std::vector<std::string> allowed = options;
  allowed.insert(allowed.end(), {"--set", "fallback.max_layers=14", "--overwrite", "--fresh"});
  ASSERT_EQ(quantize(allowed).exit_code, 0);
  EXPECT_EQ(report("output")["summary"]["fallbacks"], 14);
}

TEST_F(Quality, SquaredErrorsAreReportedOnRequest) {
  ASSERT_EQ(quantize({"--set", "report.errors=true"}).exit_code, 0);
  for (const auto& layer : report("output")["layers"]) {
    EXPECT_GT(layer["squared_weight_error"].get<double>(), 0);
    EXPECT_GT(layer["squared_output_error"].get<double>(), 0);
  }
}

TEST_F(Quality, RefinementRaisesNoRowsExactLoss) {
  for (const char* bits : {"2", "4"}) {
    const std::vector<std::string> options{"--set", "quantization.quality=best", "--set",
                                           std::string("quantization.bits=") + bits};
    ASSERT_FALSE(hashes_of_run(bits, 1, 1, options).empty());
    for (const auto& layer : report(bits)["layers"]) {
      EXPECT_GT(layer["refinement_gain"].get<double>(), 0) << layer["module"];
      EXPECT_EQ(layer["raised_rows"], 0) << layer["module"];
    }
  }
}

TEST_F(Quality, OneScaleATensorIsKeptByRefinement) {
  const std::vector<std::string> options{"--set", "quantization.per_channel=false",
                                         "--set", "quantization.group_size=-1",
                                         "--set", "quantization.bits=8",
                                         "--set", "quantization.refine_sweeps=1"};
  const auto one = hashes_of_run("one", 1, 1, options);
  EXPECT_EQ(hashes_of_run("three", 3, 1, options), one);
  EXPECT_EQ(run_program({"verify", path("one")}).exit_code, 0);
  for (const auto& layer : report("one")["layers"])
    EXPECT_LT(layer["relative_output_error"].get<double>(), 0.05) << layer["module"];
}

TEST_F(Quality, ARotatedModelsHeadIsQuantizedAndReadBack) {
  const std::vector<std::string> options{"--set", "quantization.rotation=hadamard",
                                         "--set", "quantization.lm_head=true",
                                         "--set", "quantization.bits=8"};
  const auto one = hashes_of_run("one", 1, 1, options);
  EXPECT_EQ(hashes_of_run("two", 2, 1, options), one);
  EXPECT_EQ(report("one")["layers"].back()["module"], "lm_head");
  EXPECT_EQ(run_program({"verify", path("one")}).exit_code, 0);
  const ProgramResult evaluated = run_program({"eval", job(), "--model", path("one")});
  EXPECT_EQ(evaluated.exit_code, 0) << evaluated.output;
}

}  // namespace
}  // namespace gptq::test
