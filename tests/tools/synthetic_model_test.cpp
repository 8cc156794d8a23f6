#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "io/calibration.h"
#include "model/safetensors_reader.h"
#include "model/weights.h"
#include "support/run_program.h"
#include "support/temp_directory.h"
#include "synthetic/model_files.h"
#include "synthetic/tokens.h"

namespace gptq::test {
namespace {

namespace fs = std::filesystem;

synthetic::ModelOptions tiny() {
  synthetic::ModelOptions options;
  options.shape = synthetic::find_shape("tiny");
  options.threads = 1;
  return options;
}

std::vector<std::string> files_of(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(SyntheticModel, hasTheSameBytesForAnyNumberOfThreadsAndOtherOnesForAnotherSeed) {
  const TempDirectory place;
  synthetic::ModelOptions options = tiny();
  synthetic::write_model(place.path() / "one", options);
  options.threads = 5;
  synthetic::write_model(place.path() / "five", options);
  options.seed = 2;
  synthetic::write_model(place.path() / "other", options);
  const auto one = tensor_hashes(place.path() / "one");
  EXPECT_EQ(one, tensor_hashes(place.path() / "five"));
  const auto other = tensor_hashes(place.path() / "other");
  ASSERT_EQ(one.size(), other.size());
  for (std::size_t i = 0; i < one.size(); ++i) EXPECT_NE(one[i], other[i]) << one[i].first;
}

// The bytes are a promise: a benchmark of tomorrow reads the model of today.
TEST(SyntheticModel, hasTheBytesItAlwaysHad) {
  const TempDirectory place;
  synthetic::write_model(place.path(), tiny());
  const SafetensorsReader reader(place.path());
  const HostTensor q = reader.read("model.layers.1.self_attn.q_proj.weight");
  const auto* bits = static_cast<const std::uint16_t*>(q.matrix().data);
  EXPECT_EQ(std::vector<std::uint16_t>(bits, bits + 4),
            (std::vector<std::uint16_t>{0x3dd0, 0x3d89, 0xbd07, 0x3bc6}));
}

TEST(SyntheticModel, comesInFilesOfTheSizeAskedFor) {
  const TempDirectory place;
  synthetic::ModelOptions options = tiny();
  options.shape.tie = false;
  const std::uint64_t whole = synthetic::write_model(place.path() / "one", options);
  options.shard_bytes = whole / 3;
  EXPECT_EQ(synthetic::write_model(place.path() / "many", options), whole);
  EXPECT_EQ(tensor_hashes(place.path() / "one"), tensor_hashes(place.path() / "many"));
  for (const std::string& name : files_of(place.path() / "many")) {
    EXPECT_FALSE(name.ends_with(".partial")) << name;
    if (name.ends_with(".safetensors")) {
      EXPECT_LE(fs::file_size(place.path() / "many" / name), options.shard_bytes + 4096);
    }
  }
  EXPECT_TRUE(fs::exists(place.path() / "many" / "model.safetensors.index.json"));
}

TEST(SyntheticModel, everyFamilyAndTypeLoads) {
  const TempDirectory place;
  for (const char* type : {"llama", "mistral", "qwen2", "qwen3"}) {
    for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
      synthetic::ModelOptions options = tiny();
      options.shape.model_type = type;
      options.shape.tie = false;
      options.dtype = dtype;
      synthetic::write_model(place.path(), options);
      const ModelWeights weights(place.path());
      weights.check();  // names and shapes
      weights.check_values_outside_blocks();
      EXPECT_FALSE(weights.load_block(1).tensors.empty());  // finite
    }
    fs::remove_all(place.path());
  }
}

TEST(SyntheticModel, weightsHaveTheVarianceThatKeepsActivationsInBounds) {
  const TempDirectory place;
  synthetic::write_model(place.path(), tiny());
  const ModelWeights weights(place.path());
  const BlockWeights block = weights.load_block(0);
  const HostTensor& up = block.at("mlp.gate_proj.weight");
  const Matrix matrix = up.matrix();
  double sum = 0, squares = 0;
  const auto* values = static_cast<const bf16*>(matrix.data);
  for (std::int64_t i = 0; i < up.elements(); ++i) {
    const double value = to_float(values[i]);
    sum += value;
    squares += value * value;
  }
  const auto count = static_cast<double>(up.elements());
  EXPECT_NEAR(sum / count, 0, 0.01);
  EXPECT_NEAR(squares / count * static_cast<double>(matrix.cols), 1, 0.3);
}

TEST(SyntheticModel, refusesWhatNoModelCanBe) {
  const TempDirectory place;
  synthetic::ModelOptions options = tiny();
  options.shape.kv_heads = 3;
  EXPECT_THROW(synthetic::write_model(place.path(), options), UsageError);
  options = tiny();
  options.shape.head_dim = 31;
  EXPECT_THROW(synthetic::write_model(place.path(), options), UsageError);
  EXPECT_THROW(synthetic::find_shape("llama-9"), UsageError);
}

TEST(SyntheticModel, isQuantizedAndEvaluatedByTheProgram) {
  const TempDirectory place;
  const auto path = [&](const char* name) { return (place.path() / name).string(); };
  synthetic::write_model(path("model"), tiny());
  synthetic::write_tokens(path("calibration.h5"), {8, 96, 512, 3});
  synthetic::write_tokens(path("eval.h5"), {4, 96, 512, 4});
  const CalibrationData data = read_calibration(path("calibration.h5"), {}, 512);
  EXPECT_EQ(data.samples.size(), 8u);
  EXPECT_EQ(data.longest(), 96);
  write_file(path("job.yaml"), "model: {path: " + path("model") + "}\ncalibration: {path: " +
                                   path("calibration.h5") + "}\noutput: {path: " + path("output") +
                                   "}\neval: {data: [" + path("eval.h5") + "]}\ncompute: {backend: cpu}\n");
  const ProgramResult job = run_program({"quantize", path("job.yaml")});
  ASSERT_EQ(job.exit_code, 0) << job.output;
  EXPECT_EQ(run_program({"verify", path("output")}).exit_code, 0);
  for (const char* model : {"model", "output"}) {
    const ProgramResult eval = run_program({"eval", path("job.yaml"), "--model", path(model)});
    ASSERT_EQ(eval.exit_code, 0) << eval.output;
    const std::size_t at = eval.output.find("  perplexity ");
    ASSERT_NE(at, std::string::npos) << eval.output;
    // 512 words: a model that knows nothing has 512 or more.
    EXPECT_LT(std::stod(eval.output.substr(at + 13)), 500) << eval.output;
  }
}

}  // namespace
}  // namespace gptq::test
