// output.format: dequantized, and rotated models, compared with what they stand for.

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "job_fixture.h"
#include "model/safetensors_reader.h"

namespace gptq::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class OrdinaryModel : public JobTest {
 protected:
  /// The mean loss of a model in full precision.
  double loss(const std::string& model) {
    const std::string json = path("eval.json");
    const ProgramResult result =
        run_program({"eval", job(), "--model", path(model), "--json", json, "--set", "compute.dtype=fp32"});
    EXPECT_EQ(result.exit_code, 0) << result.output;
    return std::log(nlohmann::json::parse(std::ifstream(json)).at("perplexity").get<double>());
  }

  void quantize_into(const std::string& name, std::vector<std::string> set) {
    set.insert(set.end(), {"output.path=" + path(name), "compute.dtype=fp32"});
    std::vector<std::string> arguments;
    for (const std::string& one : set) arguments.insert(arguments.end(), {"--set", one});
    const ProgramResult result = quantize(arguments);
    ASSERT_EQ(result.exit_code, 0) << result.output;
    const ProgramResult verified = run_program({"verify", path(name)});
    EXPECT_EQ(verified.exit_code, 0) << verified.output;
  }

  nlohmann::json config_of(const std::string& name) const {
    return nlohmann::json::parse(std::ifstream(path(name) + "/config.json"));
  }
};

class Dequantized : public OrdinaryModel, public testing::WithParamInterface<const char*> {};

TEST_P(Dequantized, LossIsThatOfThePackedModel) {
  const std::string rotation = std::string("quantization.rotation=") + GetParam();
  for (const DType dtype : {DType::bf16, DType::f32}) {
    TinyModelOptions options;
    options.dtype = dtype;
    fs::remove_all(path("model"));
    write_tiny_model(path("model"), options);
    fs::remove_all(path("packed"));
    fs::remove_all(path("ordinary"));
    quantize_into("packed", {rotation, "quantization.quality=fast"});
    quantize_into("ordinary", {rotation, "quantization.quality=fast", "output.format=dequantized"});
    EXPECT_FALSE(fs::exists(path("ordinary") + "/quantize_config.json"));
    EXPECT_FALSE(config_of("ordinary").contains("quantization_config"));
    EXPECT_EQ(SafetensorsReader(path("ordinary")).info("model.layers.0.self_attn.q_proj.weight").dtype,
              dtype);
    const double packed = loss("packed");
    const double rounding = dtype == DType::f32 ? 1e-6 : 5e-3;
    EXPECT_NEAR(loss("ordinary"), packed, rounding * packed);
    EXPECT_GT(std::abs(packed - loss("model")), 10 * rounding) << "nothing was quantized";
  }
}

INSTANTIATE_TEST_SUITE_P(Rotations, Dequantized, testing::Values("none", "hadamard"),
                         [](const auto& test) { return std::string(test.param); });

using RotatedModel = OrdinaryModel;

// Nothing is quantized: the output is the source's function, turned.
TEST_F(RotatedModel, HasTheSourcesLossAndAHeadOfItsOwn) {
  TinyModelOptions options;
  options.dtype = DType::f32;
  fs::remove_all(path("model"));
  write_tiny_model(path("model"), options);
  ASSERT_TRUE(config_of("model").at("tie_word_embeddings").get<bool>());
  quantize_into("turned", {"quantization.rotation=hadamard", "output.format=dequantized",
                           "quantization.method=rtn", "quantization.exclude=['.*']"});
  EXPECT_FALSE(config_of("turned").at("tie_word_embeddings").get<bool>());
  const SafetensorsReader files(path("turned"));
  EXPECT_EQ(files.info("lm_head.weight").shape, files.info("model.embed_tokens.weight").shape);
  const HostTensor norm = files.read("model.norm.weight");
  EXPECT_EQ(norm.matrix().row<float>(0)[0], 1.0f);
  const double source = loss("model");
  EXPECT_NEAR(loss("turned"), source, 1e-5 * source);
}

TEST_F(RotatedModel, IsPlannedWithItsHead) {
  const auto bytes = [&](const std::string& rotation) {
    const std::string json = path("plan.json");
    const ProgramResult result =
        run_program({"plan", job(), "--json", json, "--set", "quantization.rotation=" + rotation});
    EXPECT_EQ(result.exit_code, 0) << result.output;
    return nlohmann::json::parse(std::ifstream(json)).at("output_bytes").get<std::int64_t>();
  };
  const TinyModelOptions options;
  EXPECT_EQ(bytes("hadamard") - bytes("none"), options.vocab * options.hidden * 2);
}

TEST_F(RotatedModel, IsRefusedBeforeAnythingIsWritten) {
  TinyModelOptions options;
  options.hidden = 4 * 257;
  options.heads = options.kv_heads = 2;
  options.layers = 1;
  fs::remove_all(path("model"));
  write_tiny_model(path("model"), options);
  const ProgramResult result = quantize({"--set", "quantization.rotation=hadamard"}, 2);
  EXPECT_EQ(result.exit_code, static_cast<int>(ExitCode::bad_usage)) << result.output;
  EXPECT_THAT(result.output, HasSubstr("hidden_size is 1028 = 4 x 257"));
  EXPECT_FALSE(fs::exists(path("output")));
}

}  // namespace
}  // namespace gptq::test
