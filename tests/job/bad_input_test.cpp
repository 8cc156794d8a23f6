// What a tired user gets wrong: a clear message, the documented exit code, and nothing lost or left
// half-written.

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "job_fixture.h"
#include "model/safetensors_reader.h"

namespace gptq::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class BadInput : public JobTest {
 protected:
  void expect_refusal(const ProgramResult& result, ExitCode code, const std::string& message) {
    EXPECT_EQ(result.exit_code, static_cast<int>(code)) << result.output;
    EXPECT_THAT(result.output, HasSubstr(message));
    EXPECT_FALSE(fs::exists(path("output") + "/config.json")) << "a refused job left an output";
  }
  void edit_config(const std::string& key, const nlohmann::json& value) {
    const std::string file = path("model") + "/config.json";
    nlohmann::json config = nlohmann::json::parse(std::ifstream(file));
    config[key] = value;
    std::ofstream(file) << config.dump();
  }
};

TEST_F(BadInput, ManyMistakesInTheJobFileAreToldAtOnceByOneRank) {
  std::ofstream(job()) << "model: {path: x}\nquantization:\n  bitz: 4\n  group_size: 0\n  damp_percent: 2\n";
  const ProgramResult result = quantize({}, 2);
  expect_refusal(result, ExitCode::bad_usage, "bitz");
  EXPECT_THAT(result.output, HasSubstr("group_size"));
  EXPECT_THAT(result.output, HasSubstr("damp_percent"));
  const auto first = result.output.find("bitz");
  EXPECT_EQ(result.output.find("'bitz'", first + 20), std::string::npos) << "told by more than one rank";
}

TEST_F(BadInput, MissingModelDirectory) {
  expect_refusal(quantize({"--set", "model.path=" + path("nowhere")}), ExitCode::bad_input, "nowhere");
}

TEST_F(BadInput, UnknownArchitectureListsTheKnown) {
  edit_config("model_type", "banana");
  const ProgramResult result = quantize();
  expect_refusal(result, ExitCode::bad_input, "banana");
  EXPECT_THAT(result.output, HasSubstr("llama"));
  EXPECT_THAT(result.output, HasSubstr("qwen3"));
}

TEST_F(BadInput, ShapesThatContradictTheConfig) {
  edit_config("intermediate_size", 112);
  expect_refusal(quantize(), ExitCode::bad_input, "mlp.gate_proj");
}

TEST_F(BadInput, TruncatedSafetensors) {
  const std::string file = path("model") + "/model.safetensors";
  fs::resize_file(file, fs::file_size(file) - 100);
  expect_refusal(quantize(), ExitCode::bad_input, "model.safetensors");
}

TEST_F(BadInput, MissingSafetensors) {
  fs::remove(path("model") + "/model.safetensors");
  expect_refusal(quantize(), ExitCode::bad_input, "safetensors");
}

TEST_F(BadInput, TokenIdsOutsideTheVocabulary) {
  write_calibration(path("calibration.h5"), 4, 32, 4000, 1, false);
  expect_refusal(quantize({}, 2), ExitCode::bad_input, "vocabulary");
}

TEST_F(BadInput, CalibrationThatIsNoHdf5) {
  std::ofstream(path("calibration.h5")) << "hello";
  expect_refusal(quantize(), ExitCode::bad_input, "calibration.h5");
}

/// Overwrites the bytes of the tensor's first element.
void poison(const fs::path& model, const std::string& tensor, char byte) {
  const TensorInfo info = SafetensorsReader(model).info(tensor);
  std::fstream file(model / info.file, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(info.offset));
  const std::string bytes(size_of(info.dtype), byte);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(file.good());
}

class NanInAWeight : public BadInput, public testing::WithParamInterface<const char*> {};

TEST_P(NanInAWeight, NamesTheTensor) {
  poison(path("model"), GetParam(), '\xff');  // all bits set is NaN in every float type
  const ProgramResult result = quantize({}, 2);
  expect_refusal(result, ExitCode::bad_input, "NaN");
  EXPECT_THAT(result.output, HasSubstr(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Tensors, NanInAWeight,
                         testing::Values("model.embed_tokens.weight",
                                         "model.layers.0.self_attn.k_proj.weight",
                                         "model.layers.1.mlp.down_proj.weight",
                                         "model.layers.1.input_layernorm.weight", "model.norm.weight"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '.', '_');
                           return name;
                         });

TEST_F(BadInput, InfiniteActivationsNameBlockAndSample) {
  // 3.4e38: finite itself, but not what it scales.
  poison(path("model"), "model.layers.1.input_layernorm.weight", '\x7f');
  const ProgramResult result = quantize({}, 2);
  expect_refusal(result, ExitCode::numerical, "NaN or infinity in the activations: block 1");
  EXPECT_THAT(result.output, HasSubstr("calibration sample"));
}

TEST_F(BadInput, OutputPathBelowAFile) {
  std::ofstream(path("file")) << "x";
  expect_refusal(quantize({"--set", "output.path=" + path("file") + "/sub"}), ExitCode::io, "file");
}

TEST_F(BadInput, ForeignOutputDirectoryIsNotTouched) {
  fs::create_directory(path("output"));
  std::ofstream(path("output") + "/precious.txt") << "mine";
  const ProgramResult result = quantize();
  expect_refusal(result, ExitCode::io, "--overwrite");
  EXPECT_TRUE(fs::exists(path("output") + "/precious.txt"));
}

TEST_F(BadInput, TheSourceModelIsNeverTheOutput) {
  const ProgramResult result = quantize({"--overwrite", "--set", "output.path=" + path("model")});
  EXPECT_EQ(result.exit_code, static_cast<int>(ExitCode::bad_usage)) << result.output;
  EXPECT_TRUE(fs::exists(path("model") + "/model.safetensors"));
}

using Rerun = JobTest;

TEST_F(Rerun, OfAFinishedJobDoesNothing) {
  ASSERT_EQ(quantize().exit_code, 0);
  const auto written = fs::last_write_time(path("output") + "/model.safetensors");
  const ProgramResult again = quantize({}, 2);
  EXPECT_EQ(again.exit_code, 0) << again.output;
  EXPECT_THAT(again.output, HasSubstr("already"));
  EXPECT_EQ(fs::last_write_time(path("output") + "/model.safetensors"), written);
}

TEST_F(Rerun, WithOtherOptionsIsRefusedUntilOverwriteIsGiven) {
  ASSERT_EQ(quantize().exit_code, 0);
  EXPECT_EQ(quantize({"--set", "quantization.bits=3"}).exit_code, static_cast<int>(ExitCode::io));
  const ProgramResult over = quantize({"--set", "quantization.bits=3", "--overwrite"});
  EXPECT_EQ(over.exit_code, 0) << over.output;
  EXPECT_EQ(run_program({"verify", path("output")}).exit_code, 0);
}

using Fallbacks = JobTest;

TEST_F(Fallbacks, AboveTheLimitFailTheJob) {
  // Without damping and with fewer tokens than columns, H is singular and cannot be factored.
  write_calibration(path("calibration.h5"), 1, 3, 128, 1, false);
  const std::vector<std::string> weak{"--set", "quantization.damp_percent=1e-12", "--set",
                                      "quantization.damp_auto_increment=0"};
  const ProgramResult refused = quantize(weak);
  EXPECT_EQ(refused.exit_code, static_cast<int>(ExitCode::numerical)) << refused.output;
  EXPECT_THAT(refused.output, HasSubstr("fallback.max_layers"));
}

TEST_F(Fallbacks, AreCountedInTheReport) {
  write_calibration(path("calibration.h5"), 1, 3, 128, 1, false);
  const ProgramResult result =
      quantize({"--set", "quantization.damp_percent=1e-12", "--set", "quantization.damp_auto_increment=0",
                "--set", "fallback.max_layers=100"});
  ASSERT_EQ(result.exit_code, 0) << result.output;
  const auto report = nlohmann::json::parse(std::ifstream(path("output") + "/report.json"));
  EXPECT_GT(report.at("summary").at("fallbacks").get<int>(), 0);
}

using Plans = JobTest;

TEST_F(Plans, SayWhatTheJobNeeds) {
  const ProgramResult result = run_program({"plan", job(), "--ranks", "3"});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("14 layers"));
  EXPECT_THAT(result.output, HasSubstr("peak"));
  EXPECT_FALSE(fs::exists(path("output")));
}

TEST_F(Plans, RefuseTheGridsThatJobsRefuse) {
  ProgramResult result = run_program({"plan", job(), "--ranks", "4", "--set", "parallel.stages=2"});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  result = run_program({"quantize", job(), "--set", "parallel.stages=2"});
  EXPECT_EQ(result.exit_code, static_cast<int>(ExitCode::bad_usage)) << result.output;
  EXPECT_THAT(result.output, HasSubstr("2 does not divide the number of ranks, 1"));
  result = run_program({"plan", job(), "--ranks", "4", "--set", "parallel.replicas=3"});
  EXPECT_EQ(result.exit_code, static_cast<int>(ExitCode::bad_usage)) << result.output;
  EXPECT_THAT(result.output, HasSubstr("3 does not divide the number of ranks, 4"));
}

}  // namespace
}  // namespace gptq::test
