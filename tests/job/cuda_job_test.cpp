// Whole jobs on the CUDA backend: on a GPU, or with every CUDA thread run on the CPU (tests/cuda_emulation).

#include <cmath>
#include <nlohmann/json.hpp>

#include "resume_fixture.h"
#include "support/test_backend.h"

namespace gptq::test {
namespace {

using testing::HasSubstr;

const std::vector<std::string> kHeldOut{"--set", "calibration.held_out=0.34"};

/// Parametrised by the place's name as ctest sorts by it: "cuda_fp32".
class CudaJob : public Resume, public testing::WithParamInterface<const char*>, protected OnBackend {
 protected:
  void SetUp() override {
    start("cuda");
    if (IsSkipped() || HasFatalFailure()) return;
    Resume::SetUp();
    // Smaller than the other job tests' model: emulated threads are slow.
    TinyModelOptions options;
    options.layers = 1;
    write_tiny_model(path("model"), options);
  }
  std::vector<std::string> on(const std::string& backend, std::vector<std::string> more = {}) const {
    const std::string dtype = std::string(GetParam()).substr(std::string("cuda_").size());
    more.insert(more.end(), {"--set", "compute.backend=" + backend, "--set", "compute.dtype=" + dtype});
    return more;
  }
  double perplexity(const std::string& model, const std::string& backend) {
    const ProgramResult result = run_program(with(
        {"eval", job(), "--json", path("eval.json"), "--set", "eval.model=" + path(model)}, on(backend)));
    EXPECT_EQ(result.exit_code, 0) << result.output;
    return nlohmann::json::parse(std::ifstream(path("eval.json"))).at("perplexity");
  }
  nlohmann::json held_out(const std::string& run) const {
    return nlohmann::json::parse(std::ifstream(path(run) + "/report.json")).at("held_out");
  }
  static std::vector<std::string> with(std::vector<std::string> words, const std::vector<std::string>& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
};

TEST_P(CudaJob, GivesTheSameBytesOnAnyRanksOfOneGpuAndFromAnyPlace) {
  const auto reference = hashes_of_run("one", 1, 1, on("cuda", kHeldOut));
  ASSERT_FALSE(reference.empty());
  EXPECT_EQ(hashes_of_run("two", 2, 1, on("cuda", kHeldOut)), reference);
  EXPECT_EQ(hashes_of_run("three", 3, 1, on("cuda", with(kHeldOut, {"--set", "compute.activations=host"}))),
            reference);
  EXPECT_EQ(hashes_of_run("disk", 1, 1, on("cuda", with(kHeldOut, {"--set", "compute.activations=disk"}))),
            reference);
  const nlohmann::json figures = held_out("one");
  EXPECT_GT(figures.at("predictions"), 0);
  for (const char* run : {"two", "three", "disk"}) EXPECT_EQ(held_out(run), figures) << run;
  ASSERT_FALSE(hashes_of_run("cpu", 1, 1, on("cpu", kHeldOut)).empty());
  EXPECT_NEAR(std::log(figures.at("source_perplexity").get<double>()),
              std::log(held_out("cpu").at("source_perplexity").get<double>()), 2e-3);
}

TEST_P(CudaJob, AgreesWithTheCpu) {
  ASSERT_FALSE(hashes_of_run("gpu", 1, 1, on("cuda")).empty());
  ASSERT_FALSE(hashes_of_run("cpu", 1, 1, on("cpu")).empty());
  const double source = perplexity("model", "cuda");
  EXPECT_NEAR(std::log(source), std::log(perplexity("model", "cpu")), 2e-3);
  EXPECT_NEAR(std::log(perplexity("gpu", "cuda")), std::log(perplexity("gpu", "cpu")), 2e-3);
  // Codes differ where rounding decides; the two models are equally far from their source.
  EXPECT_NEAR(std::log(perplexity("gpu", "cpu")), std::log(perplexity("cpu", "cpu")), 0.05);
}

// Correction, refinement and candidates: sums of two streams, rows solved several times over. A near-tie that
// falls the other way is corrected for in all that follows, so that at few bits models as good as each other
// grow apart; at 8 they must not.
TEST_P(CudaJob, TheBestRecipeAgreesWithTheCpuOnAnyRanks) {
  const std::vector<std::string> best = {"--set", "quantization.quality=best", "--set",
                                         "quantization.bits=8"};
  const auto reference = hashes_of_run("gpu", 1, 1, on("cuda", best));
  ASSERT_FALSE(reference.empty());
  EXPECT_EQ(hashes_of_run("two", 2, 1, on("cuda", best)), reference);
  ASSERT_FALSE(hashes_of_run("cpu", 1, 1, on("cpu", best)).empty());
  EXPECT_NEAR(std::log(perplexity("gpu", "cpu")), std::log(perplexity("cpu", "cpu")), 0.02);
}

TEST_P(CudaJob, ResumesToTheSameBytes) {
  const auto expected = hashes_of_run("undisturbed", 1, 1, on("cuda"));
  for (const int generation : {1, 3}) {
    fs::remove_all(path("output"));
    ASSERT_EQ(interrupt(generation, SIGKILL, on("cuda")), 128 + SIGKILL);
    EXPECT_EQ(hashes_of_run("output", 2, 1, on("cuda")), expected) << "after generation " << generation;
  }
}

TEST_P(CudaJob, GoesOnOnAnotherBackendOnlyWhereThatIsAccepted) {
  for (const auto& [first, second] : {std::pair{"cpu", "cuda"}, {"cuda", "cpu"}}) {
    fs::remove_all(path("output"));
    ASSERT_EQ(interrupt(2, SIGKILL, on(first)), 128 + SIGKILL);
    const ProgramResult refused = quantize(on(second));
    EXPECT_EQ(refused.exit_code, static_cast<int>(ExitCode::io)) << refused.output;
    EXPECT_THAT(refused.output, HasSubstr("arithmetic backend"));
    EXPECT_THAT(refused.output, HasSubstr("checkpoint.other_backend"));

    const ProgramResult accepted = quantize(on(second, {"--set", "checkpoint.other_backend=accept"}));
    EXPECT_EQ(accepted.exit_code, 0) << accepted.output;
    EXPECT_THAT(accepted.output, HasSubstr("the bytes of neither"));
    EXPECT_EQ(run_program({"verify", path("output")}).exit_code, 0);
    ASSERT_FALSE(hashes_of_run("whole", 1, 1, on(second)).empty());
    EXPECT_NEAR(std::log(perplexity("output", "cpu")), std::log(perplexity("whole", "cpu")), 0.05);
    fs::remove_all(path("whole"));
  }
}

INSTANTIATE_TEST_SUITE_P(Job, CudaJob, testing::Values("cuda_fp32", "cuda_bf16"),
                         [](const testing::TestParamInfo<const char*>& place) {
                           return std::string(place.param);
                         });

}  // namespace
}  // namespace gptq::test
