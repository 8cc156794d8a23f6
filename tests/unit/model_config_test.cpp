#include "model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/block_layout.h"
#include "model/rotary.h"
#include "support/temp_directory.h"

namespace gptq {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

json smallest() {
  return {{"model_type", "llama"},  {"hidden_size", 64},        {"intermediate_size", 128},
          {"num_hidden_layers", 3}, {"num_attention_heads", 4}, {"vocab_size", 100}};
}

ModelConfig read_text(const std::string& text) {
  const test::TempDirectory directory;
  std::ofstream(directory / "config.json") << text;
  return read_model_config(directory.path());
}
ModelConfig read(const json& config) {
  return read_text(config.dump());
}
ModelConfig read_with(const json& changes) {
  json config = smallest();
  config.merge_patch(changes);
  return read(config);
}

std::string complaint(const std::string& text) {
  try {
    read_text(text);
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}
std::string complaint_with(const json& changes) {
  json config = smallest();
  config.update(changes);
  return complaint(config.dump());
}

using Windows = std::vector<std::int64_t>;
Windows windows(const ModelConfig& config) {
  Windows result;
  for (const ModelConfig::BlockAttention& block : config.attention) result.push_back(block.window);
  return result;
}

TEST(ModelConfig, FillsInWhatIsNotGiven) {
  const ModelConfig config = read(smallest());
  EXPECT_EQ(config.num_key_value_heads, 4);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.ropes.at(0).type, "default");
  EXPECT_FLOAT_EQ(config.ropes.at(0).theta, 10000);
  EXPECT_EQ(config.activation, Activation::silu);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_FALSE(config.quantized.present);
  EXPECT_EQ(windows(config), (Windows{0, 0, 0}));
}

TEST(ModelConfig, NullCountsAsNotGiven) {
  json config = smallest();
  for (const char* key :
       {"head_dim", "num_key_value_heads", "rope_scaling", "sliding_window", "torch_dtype"}) {
    config[key] = nullptr;
  }
  EXPECT_EQ(read(config).head_dim, 16);
  config["model_type"] = "mistral";
  EXPECT_EQ(windows(read(config)), (Windows{0, 0, 0}));
}

TEST(ModelConfig, BothSpellingsOfRopeMeanTheSame) {
  const json scaling = {{"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 8192}};
  json old_style = scaling, new_style = scaling;
  old_style["rope_type"] = new_style["rope_type"] = "llama3";
  new_style["rope_theta"] = 500000.0;
  const ModelConfig a =
      read_with({{"rope_theta", 500000.0}, {"rope_scaling", old_style}, {"torch_dtype", "float16"}});
  const ModelConfig b = read_with({{"rope_parameters", new_style}, {"dtype", "float16"}});
  EXPECT_EQ(make_rotary_angles(a, 100).cos, make_rotary_angles(b, 100).cos);
  EXPECT_FLOAT_EQ(b.ropes.at(0).theta, 500000);
  EXPECT_EQ(b.ropes.at(0).type, "llama3");
  EXPECT_EQ(a.dtype, DType::f16);
  EXPECT_EQ(b.dtype, DType::f16);
  EXPECT_EQ(read_with({{"rope_scaling", {{"type", "linear"}, {"factor", 2}}}}).ropes.at(0).type, "linear");
}

TEST(ModelConfig, Windows) {
  EXPECT_EQ(windows(read_with({{"model_type", "llama"}, {"sliding_window", 8}})), (Windows{0, 0, 0}));
  EXPECT_EQ(windows(read_with({{"model_type", "mistral"}, {"sliding_window", 8}})), (Windows{8, 8, 8}));
  EXPECT_EQ(windows(read_with({{"model_type", "mistral"}})), (Windows{4096, 4096, 4096}))
      << "absent is not null";
  const json qwen = {{"model_type", "qwen2"}, {"sliding_window", 8}, {"max_window_layers", 2}};
  EXPECT_EQ(windows(read_with(qwen)), (Windows{0, 0, 0}));  // use_sliding_window is off
  json used = qwen;
  used["use_sliding_window"] = true;
  EXPECT_EQ(windows(read_with(used)), (Windows{0, 0, 8}));
  used["layer_types"] = {"sliding_attention", "full_attention", "full_attention"};
  EXPECT_EQ(windows(read_with(used)), (Windows{8, 0, 0}));
}

TEST(ModelConfig, BiasesByFamily) {
  const auto has_bias = [](const json& changes) {
    const ModelConfig config = read_with(changes);
    std::vector<bool> result;
    const BlockLayout layout = make_layout(find_architecture(config.model_type), config, 0);
    for (const BlockStep& step : layout.steps) result.push_back(step.groups.at(0).layers[0].bias);
    return result;
  };
  EXPECT_EQ(has_bias({{"model_type", "qwen2"}}), (std::vector<bool>{true, false, false, false}));
  EXPECT_EQ(has_bias({{"attention_bias", true}}), (std::vector<bool>{true, true, false, false}));
  EXPECT_EQ(has_bias({{"mlp_bias", true}}), (std::vector<bool>{false, false, true, true}));
}

TEST(ModelConfig, QuantizedModels) {
  const ModelConfig::Quantized q =
      read_with(
          {{"quantization_config",
            {{"quant_method", "gptq"}, {"bits", 3}, {"group_size", -1}, {"checkpoint_format", "gptq_v2"}}}})
          .quantized;
  EXPECT_TRUE(q.present);
  EXPECT_EQ(q.bits, 3);
  EXPECT_EQ(q.group_size, -1);
  EXPECT_EQ(q.format, CheckpointFormat::gptq_v2);
  EXPECT_THAT(complaint_with({{"quantization_config", {{"quant_method", "awq"}}}}),
              AllOf(HasSubstr("quantization_config.quant_method"), HasSubstr("gptq"), HasSubstr("awq")));
}

QuantizedConfig quantized_with(const std::string& text) {
  const std::string config = smallest().dump();
  return read_text(config.substr(0, config.size() - 1) + ", \"quantization_config\": " + text + "}")
      .quantized;
}

TEST(QuantizedModules, FirstRuleThatMatchesFromTheStartWins) {
  const QuantizedConfig q = quantized_with(
      R"({"bits": 4, "group_size": 64, "dynamic": {
          "z.*": {"bits": 2},
          "+:.*\\.1\\.mlp": {"bits": 8, "group_size": -1},
          "-:.*down_proj": {},
          ".*mlp": {"sym": false, "desc_act": true},
          "mlp": {"bits": 3}}})");
  const auto form = [&](const char* module) { return q.form_of(module); };
  EXPECT_EQ(form("model.layers.1.mlp.down_proj"), (QuantizedForm{8, -1, true, false}));
  EXPECT_FALSE(q.skips("model.layers.1.mlp.down_proj")) << "an earlier rule decides";
  EXPECT_TRUE(q.skips("model.layers.2.mlp.down_proj"));
  EXPECT_EQ(form("model.layers.2.mlp.up_proj"), (QuantizedForm{4, 64, false, true}));
  EXPECT_EQ(form("model.layers.2.self_attn.q_proj"), (QuantizedForm{4, 64, true, false}));
  EXPECT_FALSE(q.skips("model.layers.2.self_attn.q_proj"));
  EXPECT_EQ(q.all_bits(), (std::set{2, 3, 4, 8}));
  EXPECT_EQ(quantized_with(R"({"bits": 4, "dynamic": {"-:x": {"bits": 5}}})").all_bits(), std::set{4});
}

TEST(QuantizedModules, OneCompsList) {
  const QuantizedConfig q = quantized_with(
      R"({"quant_method": "mixed_gptq", "bits": 4, "group_size": 64, "sym": false, "quantization_bits": [
          {"self_attn": {"bits": 8, "method": "gptq", "params": {"group_size": 32}}},
          {"mlp.up_proj": {"bits": 3, "group_size": -1}, "_all": {"bits": 2}},
          {}]})");
  EXPECT_TRUE(q.mixed);
  EXPECT_EQ(q.form_of("model.layers.0.self_attn.q_proj"), (QuantizedForm{8, 32, false, false}));
  EXPECT_TRUE(q.skips("model.layers.0.mlp.up_proj"));
  EXPECT_EQ(q.form_of("model.layers.1.mlp.up_proj"), (QuantizedForm{3, -1, false, false}));
  EXPECT_EQ(q.form_of("model.layers.1.mlp.down_proj"), (QuantizedForm{2, 64, false, false}));
  EXPECT_TRUE(q.skips("model.layers.2.mlp.down_proj"));
  EXPECT_EQ(q.form_of("lm_head"), (QuantizedForm{4, 64, false, false}));
  EXPECT_FALSE(q.skips("lm_head")) << "the list says nothing of what lies outside the blocks";
}

TEST(QuantizedModules, WhatCannotBeReadIsNamed) {
  const auto complaint_about = [](const std::string& text) {
    try {
      quantized_with(text);
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_THAT(complaint_about(R"({"dynamic": {"+:(": {}}})"), HasSubstr("the rule '+:('"));
  EXPECT_THAT(complaint_about(R"({"dynamic": [1]})"), HasSubstr("dynamic must be an object"));
  EXPECT_THAT(complaint_about(R"({"dynamic": {"a": {"bits": 9}}})"),
              HasSubstr("dynamic['a'].bits must be 2 to 8"));
  EXPECT_THAT(complaint_about(R"({"dynamic": {"a": 4}})"), HasSubstr("dynamic['a']. must be a JSON object"));
  EXPECT_THAT(complaint_about(R"({"checkpoint_format": "marlin"})"),
              HasSubstr("must be gptq, gptq_v2 or gptq_p"));
  for (const char* bits : {R"({"bits": 5})", R"({"bits": 7, "checkpoint_format": "gptq_v2"})",
                           R"({"bits": 4, "dynamic": {"a": {"bits": 6}}})"}) {
    EXPECT_THAT(complaint_about(bits), HasSubstr("checkpoint_format must be gptq_p where modules have"))
        << bits;
  }
  EXPECT_EQ(complaint_about(R"({"bits": 4, "checkpoint_format": "gptq_p", "dynamic": {"a": {"bits": 6}}})"),
            "no error");
  EXPECT_THAT(complaint_about(R"({"quant_method": "mixed_gptq"})"),
              HasSubstr("quantization_bits is required"));
  EXPECT_THAT(
      complaint_about(R"({"quant_method": "mixed_gptq", "quantization_bits": [{"a": {"method": "dbf"}}]})"),
      HasSubstr("quantization_bits[0].a.method must be gptq"));
  EXPECT_THAT(complaint_about(R"({"quant_method": "mixed_gptq", "quantization_bits": [4]})"),
              HasSubstr("must hold an object for every block"));
}

TEST(ModelConfig, ComplaintsNameFileKeyAndExpectation) {
  EXPECT_THAT(complaint("{broken"), AllOf(HasSubstr("config.json"), HasSubstr("not valid JSON")));
  EXPECT_THAT(complaint("[1]"), AllOf(HasSubstr("config.json"), HasSubstr("object")));
  EXPECT_THAT(complaint_with({{"model_type", "gptj"}}),
              AllOf(HasSubstr("gptj"), HasSubstr("llama, mistral, qwen2, qwen3"), HasSubstr("stablelm"),
                    HasSubstr("docs/add-an-architecture.md")));
  EXPECT_THAT(complaint_with({{"hidden_size", nullptr}}),
              AllOf(HasSubstr("hidden_size"), HasSubstr("required")));
  EXPECT_THAT(complaint_with({{"hidden_size", "64"}}), AllOf(HasSubstr("hidden_size"), HasSubstr("integer")));
  EXPECT_THAT(complaint_with({{"num_hidden_layers", -1}}),
              HasSubstr("num_hidden_layers must be an integer >= 1"));
  EXPECT_THAT(complaint_with({{"num_key_value_heads", 3}}), HasSubstr("must divide num_attention_heads"));
  EXPECT_THAT(complaint_with({{"hidden_act", "mish"}}), AllOf(HasSubstr("hidden_act"), HasSubstr("mish")));
  EXPECT_THAT(complaint_with({{"torch_dtype", "int8"}}), HasSubstr("torch_dtype"));
  EXPECT_THAT(complaint_with({{"rms_norm_eps", 0}}), HasSubstr("rms_norm_eps must be > 0"));
  EXPECT_THAT(complaint_with({{"rope_scaling", {{"rope_type", "ntk"}, {"factor", 2}}}}),
              AllOf(HasSubstr("rope_scaling.rope_type"), HasSubstr("ntk")));
  EXPECT_THAT(complaint_with({{"rope_scaling", {{"rope_type", "longrope"}, {"factor", 2}}}}),
              HasSubstr("rope_scaling.short_factor is required"));
  EXPECT_THAT(complaint_with({{"rope_scaling", {{"rope_type", "linear"}}}}),
              HasSubstr("rope_scaling.factor"));
  const test::TempDirectory empty;
  EXPECT_THROW(read_model_config(empty.path()), InputError);
}

TEST(RotaryAngles, AnglesAreThePositionTimesTheFrequency) {
  const RotaryAngles table = make_rotary_angles(read(smallest()), 5);
  EXPECT_EQ(table.positions, 5);
  EXPECT_EQ(table.rotary_dim, 16);
  for (int p = 0; p < 5; ++p) {
    for (int i = 0; i < 8; ++i) {
      const double angle = p * std::pow(10000.0, -2.0 * i / 16);
      EXPECT_NEAR(table.cos[static_cast<std::size_t>(p * 8 + i)], std::cos(angle), 1e-6);
      EXPECT_NEAR(table.sin[static_cast<std::size_t>(p * 8 + i)], std::sin(angle), 1e-6);
    }
  }
}

TEST(RotaryAngles, DynamicScalingIsRefusedBeyondTheTrainedLength) {
  const ModelConfig config = read_with(
      {{"max_position_embeddings", 16}, {"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 2.0}}}});
  EXPECT_EQ(make_rotary_angles(config, 16).cos, make_rotary_angles(read(smallest()), 16).cos);
  EXPECT_THROW(make_rotary_angles(config, 17), InputError);
}

}  // namespace
}  // namespace gptq
