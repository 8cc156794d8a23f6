// End-to-end figures of the held-out samples, from outside: what `eval` says of the models, on any ranks,
// however often the job is interrupted.

#include <cmath>
#include <nlohmann/json.hpp>

#include "io/calibration.h"
#include "resume_fixture.h"

namespace gptq::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

const std::vector<std::string> kHeldOut{"--set", "calibration.held_out=0.34"};  // two of the six

class HeldOut : public Resume {
 protected:
  static std::vector<std::string> with(std::vector<std::string> options,
                                       const std::vector<std::string>& more) {
    options.insert(options.end(), more.begin(), more.end());
    return options;
  }
  json figures(const std::string& name) const {
    return json::parse(std::ifstream(path(name) + "/report.json")).at("held_out");
  }
  /// Of a job into directory `name`.
  json figures_of_run(const std::string& name, int ranks, const std::vector<std::string>& options) {
    EXPECT_FALSE(hashes_of_run(name, ranks, 1, with(kHeldOut, options)).empty());
    return figures(name);
  }
  /// As `eval` finds it on the held-out samples alone.
  double perplexity(const std::string& model, const std::vector<std::string>& options = {}) {
    const std::int64_t vocab = TinyModelOptions().vocab;
    const auto samples = read_calibration(path("calibration.h5"), {}, vocab).samples;
    write_samples(path("held_out.h5"), {samples.end() - 2, samples.end()}, vocab);
    const ProgramResult result =
        run_program(with({"eval", job(), "--model", path(model), "--json", path("eval.json"), "--set",
                          "eval.data=[" + path("held_out.h5") + "]"},
                         options));
    EXPECT_EQ(result.exit_code, 0) << result.output;
    return json::parse(std::ifstream(path("eval.json"))).at("perplexity");
  }
};

const std::vector<std::string> kCorrected{"--set", "quantization.correction_alpha=1"};
const std::vector<std::string> kRotated{"--set", "quantization.rotation=hadamard", "--set",
                                        "quantization.lm_head=true"};

TEST_F(HeldOut, PerplexitiesAreThoseOfEval) {
  for (const std::string dtype : {"fp32", "bf16"}) {
    const std::vector<std::string> type{"--set", "compute.dtype=" + dtype};
    const double source = perplexity("model", type);
    for (const auto& [name, options] :
         {std::pair{"plain", std::vector<std::string>()},
          {"corrected", kCorrected},
          {"not_sequential", {"--set", "quantization.true_sequential=false"}}}) {
      const json made = figures_of_run(dtype + name, 1, with(type, options));
      EXPECT_EQ(made["samples"], 2);
      EXPECT_EQ(made["predictions"], made["tokens"].get<int>() - 2);
      EXPECT_DOUBLE_EQ(made["source_perplexity"], source) << dtype << " " << name;
      EXPECT_DOUBLE_EQ(made["perplexity"], perplexity(dtype + name, type)) << dtype << " " << name;
      EXPECT_GT(made["relative_hidden_error"], 1e-4);
      EXPECT_LT(made["relative_hidden_error"], 1) << "no better than none";
    }
  }
}

// The embedding and norms are those that the output keeps, the head is the quantized one.
TEST_F(HeldOut, OfARotatedModelWithAQuantizedHead) {
  const json made = figures_of_run("rotated", 2, with(kRotated, {"--set", "compute.dtype=fp32"}));
  const double source = perplexity("model", {"--set", "compute.dtype=fp32"});
  const double quantized = perplexity("rotated", {"--set", "compute.dtype=fp32"});
  EXPECT_NEAR(made["perplexity"], quantized, 1e-5 * quantized);
  EXPECT_NEAR(made["source_perplexity"], source, 0.01 * source) << "tables rounded after they were turned";
  EXPECT_GT(std::abs(made["perplexity"].get<double>() - made["source_perplexity"].get<double>()),
            1e-4 * source);
}

TEST_F(HeldOut, AreTheSameOnAnyRanks) {
  for (const auto& [name, options] : {std::pair{"plain", std::vector<std::string>()},
                                      {"corrected", kCorrected},
                                      {"rotated", kRotated},
                                      {"on_disk", {"--set", "compute.activations=disk"}}}) {
    const json one = figures_of_run(std::string(name) + "1", 1, options);
    for (const int ranks : {2, 3, 5})  // more than there are chunks
      EXPECT_EQ(figures_of_run(name + std::to_string(ranks), ranks, options), one) << name << " on " << ranks;
  }
}

TEST_F(HeldOut, EightBitsAreNearlyTheSource) {
  const std::vector<std::string> fine{"--set", "quantization.bits=8"};
  const json four = figures_of_run("four", 1, {});
  const json eight = figures_of_run("eight", 1, fine);
  EXPECT_EQ(eight["source_perplexity"], four["source_perplexity"]);
  // A random model is sure of the wrong tokens: perplexities are large, and small differences of logits
  // count.
  const auto log_of = [](const json& perplexity) { return std::log(perplexity.get<double>()); };
  EXPECT_NEAR(log_of(eight["perplexity"]), log_of(eight["source_perplexity"]), 0.05);
  EXPECT_LT(eight["relative_hidden_error"], four["relative_hidden_error"].get<double>() / 50);
}

TEST_F(HeldOut, AreToldAtTheEnd) {
  const ProgramResult result = quantize(kHeldOut);
  EXPECT_THAT(result.output, HasSubstr("held-out: perplexity "));
  EXPECT_THAT(result.output, HasSubstr("held out      2 samples: perplexity "));
}

TEST_F(HeldOut, AreNullWhereNothingIsHeldOut) {
  const ProgramResult none = quantize();
  EXPECT_THAT(none.output, Not(HasSubstr("held-out:")));
  EXPECT_TRUE(figures("output").is_null());
  const ProgramResult rtn = quantize(with(kHeldOut, {"--set", "quantization.method=rtn", "--overwrite"}));
  ASSERT_EQ(rtn.exit_code, 0) << rtn.output;
  EXPECT_TRUE(figures("output").is_null());
}

// The stream of the held-out samples alone passes a block at once, between two checkpoints.
TEST_F(HeldOut, SurviveInterruptions) {
  for (const char* sequential : {"true", "false"}) {
    const std::vector<std::string> options =
        with(kHeldOut, {"--set", std::string("quantization.true_sequential=") + sequential});
    const auto expected = hashes_of_run(std::string("undisturbed") + sequential, 1, 1, options);
    const json wanted = figures(std::string("undisturbed") + sequential);
    int ranks = 4;
    for (const int generation : {2, 3, 6, 11}) {
      fs::remove_all(path("output"));
      ASSERT_EQ(interrupt(generation, SIGKILL, options), 128 + SIGKILL);
      const ProgramResult resumed = quantize(options, ranks--);
      ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
      EXPECT_THAT(resumed.output, HasSubstr("resuming from generation"));
      EXPECT_EQ(tensor_hashes(path("output")), expected);
      EXPECT_EQ(figures("output"), wanted) << "after generation " << generation;
    }
  }
}

// The job's last file cannot be written; the next attempt has nothing left to quantize.
TEST_F(HeldOut, AreMeasuredByAnAttemptThatBeginsBehindTheLastBlock) {
  for (const auto& [name, more] : {std::pair{"plain", std::vector<std::string>()}, {"rotated", kRotated}}) {
    const std::vector<std::string> options = with(kHeldOut, more);
    const json wanted = figures_of_run(std::string("undisturbed_") + name, 2, more);
    fs::remove_all(path("output"));
    const fs::path obstacle = fs::path(path("output")) / "config.json";
    ASSERT_EQ(disturb(
                  1, [&](pid_t) { fs::create_directories(obstacle / "x"); }, options),
              static_cast<int>(ExitCode::io));
    fs::remove_all(obstacle);
    const ProgramResult resumed = quantize(options, 3);
    ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
    EXPECT_THAT(resumed.output, HasSubstr("block 2 of 2"));
    EXPECT_EQ(figures("output"), wanted) << name;
  }
}

}  // namespace
}  // namespace gptq::test
