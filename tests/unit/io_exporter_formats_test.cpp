// What the exporter writes of rotated models, and as ordinary weights.

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "io/output_layout.h"
#include "io/verify.h"
#include "model/source_model.h"
#include "quant/packing.h"
#include "unit/io_export_fixture.h"

namespace gptq::test {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ExportFormats : public ExportTest {
 protected:
  void export_source() {
    const auto model = open_source_model(job_);
    const Recipe recipe(job_.quantization);
    Exporter exporter(job_, *model, recipe, "fingerprint");
    write_blocks(exporter, *model, recipe);
    exporter.finish();
  }

  static void expect_same(const HostTensor& got, const HostTensor& expected, const std::string& name) {
    ASSERT_EQ(got.dtype, expected.dtype) << name;
    ASSERT_EQ(got.shape, expected.shape) << name;
    EXPECT_TRUE(
        std::equal(got.storage.data(), got.storage.data() + got.storage.size(), expected.storage.data()))
        << name;
  }

  HostTensor written(const std::string& name) const { return SafetensorsReader(job_.output.path).read(name); }
};

TEST_F(ExportFormats, DequantizedWeightsAreThoseOfThePackedOnes) {
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    TinyModelOptions options;
    options.model_type = "qwen2";
    options.dtype = dtype;
    make_source(options);
    job_.quantization.sym = false;
    job_.output.format = "dequantized";
    job_.output.overwrite = true;
    export_source();
    EXPECT_THAT(verify_output(job_.output.path).failures, IsEmpty());
    const ModelWeights source(job_.model.path);
    const Recipe recipe(job_.quantization);
    for (const QuantizedLayer& layer : pattern_layers(source, recipe, 1)) {
      const HostTensor expected = convert(dequantize(weights_of(layer)), dtype);
      expect_same(written(layer.module + ".weight"), expected, layer.module);
    }
    const std::string bias = "model.layers.1.self_attn.v_proj.bias";
    expect_same(written(bias), source.files().read(bias), bias);
    EXPECT_FALSE(SafetensorsReader(job_.output.path).contains("model.layers.1.self_attn.v_proj.qweight"));
  }
}

TEST_F(ExportFormats, DequantizedFilesAreLikeTheSources) {
  TinyModelOptions options;
  make_source(options);
  job_.output.format = "dequantized";
  job_.output.max_shard_bytes = 100'000;
  export_source();
  const SafetensorsReader source(job_.model.path), output(job_.output.path);
  ASSERT_EQ(source.tensors().size(), output.tensors().size());
  for (const auto& [name, info] : source.tensors()) EXPECT_EQ(output.info(name).shape, info.shape) << name;
  EXPECT_FALSE(std::filesystem::exists(this->output("quantize_config.json")));
  EXPECT_TRUE(std::filesystem::exists(this->output("model.safetensors.index.json")));
  EXPECT_EQ(nlohmann::json::parse(read_text_file(this->output("config.json"))),
            nlohmann::json::parse(read_text_file(job_.model.path + "/config.json")));
}

TEST_F(ExportFormats, AWeightTooLargeForTheSourcesTypeIsRefused) {
  TinyModelOptions options;
  options.dtype = DType::f16;
  make_source(options);
  job_.output.format = "dequantized";
  const auto model = open_source_model(job_);
  const Recipe recipe(job_.quantization);
  Exporter exporter(job_, *model, recipe, "fingerprint");
  std::vector<QuantizedLayer> layers = pattern_layers(*model, recipe, 0);
  layers[2].scales[3] = to_f16(60000);
  try {
    exporter.write_block(0, model->load_block(0), layers);
    FAIL();
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), HasSubstr(layers[2].module + ".weight"));
    EXPECT_THAT(error.what(), HasSubstr("output.format"));
  }
}

TEST_F(ExportFormats, VerifyTellsADequantizedModelWithAQuantizationConfig) {
  make_source();
  job_.output.format = "dequantized";
  export_source();
  nlohmann::json config = nlohmann::json::parse(read_text_file(output("config.json")));
  config["quantization_config"] = {{"bits", 4}};
  write_file(output("config.json"), config.dump());
  EXPECT_THAT(verify_output(job_.output.path).failures, Contains(HasSubstr("weights are dequantized")));
}

TEST_F(ExportFormats, RotatedTensorsAreWrittenAsTheEngineHoldsThem) {
  for (const bool tie : {true, false}) {
    TinyModelOptions options;
    options.model_type = "qwen2";
    options.tie = tie;
    make_source(options);
    job_.quantization.rotation = "hadamard";
    job_.quantization.exclude = {"o_proj", "down_proj", "model.layers.0.self_attn.v_proj"};
    job_.output.overwrite = true;
    export_source();
    const auto model = open_source_model(job_);
    const Recipe recipe(job_.quantization);
    for (const std::int64_t block : {0, 1}) {
      const std::string prefix = block_prefix(model->architecture(), block);
      const BlockWeights weights = model->load_block(block);
      for (const auto& [name, tensor] : weights.tensors) {
        const std::string module = prefix + name.substr(0, name.rfind('.'));
        const bool quantized = module.ends_with("_proj") && recipe.selects(module);
        if (!quantized || name.ends_with(".bias")) expect_same(written(prefix + name), tensor, prefix + name);
      }
    }
    expect_same(written("model.embed_tokens.weight"), model->load_embedding(), "embedding");
    expect_same(written("model.norm.weight"), model->load_final_norm(), "final norm");
    expect_same(written("lm_head.weight"), model->load_head(), "head");
    const ModelWeights result(job_.output.path);
    result.check();
    EXPECT_FALSE(result.config().tie_word_embeddings);
  }
}

TEST_F(ExportFormats, BlocksOfARotatedModelAreFoundAgain) {
  make_source();
  job_.quantization.rotation = "hadamard";
  const auto model = open_source_model(job_);
  const Recipe recipe(job_.quantization);
  std::vector<std::string> finished;
  {
    Exporter exporter(job_, *model, recipe, "fingerprint");
    exporter.keep_partial_files();
    write_blocks(exporter, *model, recipe, 0, 1);
    exporter.sync();
    finished = exporter.block_sha256();
  }
  EXPECT_EQ(damage_in_finished_blocks(job_, *model, recipe, finished), std::nullopt);
  Exporter resumed(job_, *model, recipe, "fingerprint", finished);
  write_blocks(resumed, *model, recipe, 1);
  resumed.finish();
  const auto resumed_files = content(job_.output.path);
  job_.output.overwrite = true;
  export_source();
  EXPECT_EQ(content(job_.output.path), resumed_files);
}

}  // namespace
}  // namespace gptq::test
