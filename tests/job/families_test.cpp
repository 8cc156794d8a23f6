// Whole jobs on the fixtures of families whose blocks are no Llama's.

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "model/safetensors_reader.h"
#include "resume_fixture.h"

namespace gptq::test {
namespace {

using testing::HasSubstr;
using testing::Not;

class FamilyJob : public Resume {
 protected:
  /// The fixture as the source model, with text that fits its vocabulary and its windows.
  void use(const std::string& fixture) {
    fs::remove_all(path("model"));
    fs::create_directories(path("model"));
    for (const char* file : {"config.json", "model.safetensors"})
      fs::copy_file(fixtures() / fixture / file, fs::path(path("model")) / file);
    std::ofstream(path("model") + "/tokenizer.json") << R"({"version": "1.0", "model": {"type": "dummy"}})";
    write_calibration(path("calibration.h5"), 8, 24, 80, 1, /*ragged=*/true);
    write_calibration(path("eval.h5"), 4, 30, 80, 2, /*ragged=*/false);
    std::ofstream(job()) << "model: {path: " << path("model") << "}\n"
                         << "calibration: {path: " << path("calibration.h5") << ", chunk_tokens: 40}\n"
                         << "quantization: {bits: 4, group_size: 16}\n"
                         << "compute: {dtype: fp32}\n"
                         << "output: {path: " << path("output") << "}\n"
                         << "eval: {data: [" << path("eval.h5") << "]}\n";
  }

  double loss(const std::string& model) {
    const std::string json = path("eval.json");
    const ProgramResult result = run_program({"eval", job(), "--model", path(model), "--json", json});
    EXPECT_EQ(result.exit_code, 0) << result.output;
    return std::log(nlohmann::json::parse(std::ifstream(json)).at("perplexity").get<double>());
  }

  void expect_verified(const std::string& name) {
    const ProgramResult result = run_program({"verify", path(name)});
    EXPECT_EQ(result.exit_code, 0) << result.output;
  }
};

class EveryFamily : public FamilyJob, public testing::WithParamInterface<const char*> {};

// The default recipe on one rank and on three; as an ordinary model; and half of it kept.
TEST_P(EveryFamily, IsQuantizedVerifiedAndEvaluated) {
  use(GetParam());
  const auto packed = hashes_of_run("packed", 1, 1, {"--set", "calibration.held_out=0.2"});
  ASSERT_FALSE(packed.empty());
  expect_verified("packed");
  EXPECT_EQ(hashes_of_run("on_three", 3, 1, {"--set", "calibration.held_out=0.2"}), packed);
  hashes_of_run("ordinary", 2, 1,
                {"--set", "calibration.held_out=0.2", "--set", "output.format=dequantized"});
  expect_verified("ordinary");
  const double source = loss("model"), quantized = loss("packed");
  EXPECT_NEAR(loss("ordinary"), quantized, 1e-5 * quantized);
  EXPECT_GT(std::abs(quantized - source), 1e-4) << "nothing was quantized";

  // The last block is kept as it is, in the shapes of the files.
  const auto half = hashes_of_run("half", 1, 1, {"--set", "quantization.num_layers=1"});
  expect_verified("half");
  const auto of_source = tensor_hashes(path("model"));
  const auto kept = std::count_if(half.begin(), half.end(), [&](const auto& tensor) {
    const bool in_last = tensor.first.find(".1.") != std::string::npos;
    return in_last && std::find(of_source.begin(), of_source.end(), tensor) != of_source.end();
  });
  EXPECT_GT(kept, 3);
  const auto packed_in_last = std::count_if(half.begin(), half.end(), [](const auto& tensor) {
    return tensor.first.find(".1.") != std::string::npos && tensor.first.ends_with(".qweight");
  });
  EXPECT_EQ(packed_in_last, 0);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, EveryFamily,
                         testing::Values("gemma3_text", "gemma2", "phi3", "olmo2", "granite", "smollm3",
                                         "opt", "gpt2", "gpt_neox", "gpt_neox_sequential", "falcon_7b",
                                         "falcon_40b", "falcon_rw", "bloom", "stablelm", "stablelm_parallel"),
                         [](const auto& test) { return std::string(test.param); });

struct FamilyResume {
  const char* fixture;
  std::vector<std::string> set;
  std::vector<int> generations;
};

void PrintTo(const FamilyResume& test, std::ostream* out) {
  *out << test.fixture;
}

class ResumeFamilies : public FamilyJob, public testing::WithParamInterface<FamilyResume> {};

// Interrupted in every group of blocks with several groups to a step, and between them.
TEST_P(ResumeFamilies, GiveTheSameBytesWhereverTheyWereInterrupted) {
  use(GetParam().fixture);
  const auto expected = hashes_of_run("undisturbed", 2, 1, GetParam().set);
  int ranks = 1;
  for (const int generation : GetParam().generations) {
    fs::remove_all(path("output"));
    ASSERT_EQ(interrupt(generation, SIGKILL, GetParam().set), 128 + SIGKILL);
    const ProgramResult resumed = quantize(GetParam().set, ranks);
    ranks = ranks % 3 + 1;
    ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
    EXPECT_THAT(resumed.output, HasSubstr("resuming from generation"));
    EXPECT_EQ(tensor_hashes(path("output")), expected) << "after generation " << generation;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Fixtures, ResumeFamilies,
    testing::Values(
        FamilyResume{"gpt_neox", {}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 17, 20}},
        FamilyResume{"gpt_neox", {"--set", "quantization.true_sequential=false"}, {4, 5, 6, 7, 10, 13}},
        FamilyResume{"gpt_neox",
                     {"--set", "quantization.correction_target=output", "--set", "calibration.held_out=0.2"},
                     {3, 4, 5, 6, 7, 10}},
        FamilyResume{"gemma3_text", {"--set", "quantization.token_weight=residual"}, {4, 8, 14}}),
    [](const auto& test) { return std::string(test.param.fixture) + "_" + std::to_string(test.index); });

TEST_F(FamilyJob, CorrectionBehindANormIsSaidToAimAtTheLayersOwnOutput) {
  use("olmo2");
  const ProgramResult note = quantize();
  EXPECT_EQ(note.exit_code, 0) << note.output;
  EXPECT_THAT(note.output, HasSubstr("self_attn.o_proj gives is normed or scaled"));
  use("gpt_neox");
  const ProgramResult none = quantize({"--set", "output.overwrite=true"});
  EXPECT_EQ(none.exit_code, 0) << none.output;
  EXPECT_THAT(none.output, Not(HasSubstr("normed or scaled")));
}

TEST_F(FamilyJob, RotationIsRefusedBeforeAnythingIsWritten) {
  use("gpt2");
  const ProgramResult result = quantize({"--set", "quantization.rotation=hadamard"});
  EXPECT_NE(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr("gpt2"));
  EXPECT_FALSE(fs::exists(path("output")));
}

}  // namespace
}  // namespace gptq::test
