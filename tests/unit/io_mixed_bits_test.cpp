// Outputs whose modules are not stored alike: what config.json says of them, and that it is read back so.
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>

#include "base/file.h"
#include "io/quantization_config.h"
#include "io/verify.h"
#include "model/recipe_check.h"
#include "quant/packing.h"
#include "unit/io_export_fixture.h"

namespace gptq::test {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class MixedBits : public ExportTest {
 protected:
  MixedBits() { make_source({.layers = 3, .tie = false}); }

  json read_json(const std::string& name) const { return json::parse(read_text_file(output(name))); }

  void edit_configs(const std::function<void(json&)>& change) {
    for (const char* name : {"config.json", "quantize_config.json"}) {
      json config = read_json(name);
      change(config.contains("quantization_config") ? config["quantization_config"] : config);
      std::ofstream(output(name)) << config.dump(2);
    }
  }

  /// Every failure but those of hashes, which an edit always causes.
  std::vector<std::string> failures() const {
    std::vector<std::string> found;
    for (const std::string& failure : verify_output(job_.output.path).failures)
      if (failure.find("SHA-256") == std::string::npos &&
          failure.find("cut off or changed") == std::string::npos)
        found.push_back(failure);
    return found;
  }

  std::vector<std::string> notes() const { return check_recipe(ModelWeights(job_.model.path), job_); }

  std::string refusal() const {
    try {
      notes();
      return "no refusal";
    } catch (const UsageError& error) {
      return error.what();
    }
  }

  /// Every linear of the output, as `eval` reads it, is what was handed to the exporter.
  void expect_read_back() const {
    const ModelWeights source(job_.model.path), result(job_.output.path);
    const Recipe recipe(job_.quantization);
    result.check();
    for (std::int64_t block = 0; block < 3; ++block) {
      const BlockWeights read = result.load_block(block);
      for (const QuantizedLayer& layer : pattern_layers(source, recipe, block)) {
        const std::string name = layer.module.substr(block_prefix(source.architecture(), block).size());
        expect_same(read.at(name + ".weight"), dequantize(weights_of(layer)), layer.module);
      }
    }
  }

  static void expect_same(const HostTensor& a, const HostTensor& b, const std::string& name) {
    ASSERT_EQ(a.shape, b.shape) << name;
    EXPECT_TRUE(std::equal(a.storage.data(), a.storage.data() + a.storage.size(), b.storage.data())) << name;
  }
};

/// What a reader that takes the first matching rule (re.match) finds for a module: the rule's values, or
/// null.
json first_rule(const json& dynamic, const std::string& module) {
  for (const auto& [rule, values] : dynamic.items()) {
    if (std::regex_search(module, std::regex(rule.substr(2)), std::regex_constants::match_continuous))
      return rule.starts_with("-:") ? json("kept") : values;
  }
  return nullptr;
}

TEST_F(MixedBits, RulesHoldUnderPlainAndJoinedNames) {
  job_.quantization.mlp_bits = 3;
  job_.output.checkpoint_format = "gptq_p";
  job_.quantization.module_bits = {{"down_proj", 8}, {"layers.1.mlp.down_proj", 5}};
  job_.quantization.dynamic = {{"-:.*\\.2\\.self_attn\\.[qkv]", {}},
                               {".*\\.0\\.self_attn\\.[qkv]", {{"bits", "6"}, {"group_size", "16"}}}};
  export_all();
  const json dynamic = read_json("quantize_config.json")["dynamic"];
  const auto rule = [&](const std::string& module) { return first_rule(dynamic, "model.layers." + module); };
  EXPECT_EQ(rule("0.mlp.down_proj"), json({{"bits", 8}}));
  EXPECT_EQ(rule("1.mlp.down_proj"), json({{"bits", 5}}));
  EXPECT_EQ(rule("2.mlp.gate_proj"), json({{"bits", 3}}));
  EXPECT_EQ(rule("2.mlp.gate_up_proj"), json({{"bits", 3}})) << "vLLM's joined name";
  EXPECT_EQ(rule("0.self_attn.k_proj"), json({{"bits", 6}, {"group_size", 16}}));
  EXPECT_EQ(rule("0.self_attn.qkv_proj"), json({{"bits", 6}, {"group_size", 16}}));
  EXPECT_EQ(rule("1.self_attn.qkv_proj"), nullptr) << "as all";
  EXPECT_EQ(rule("2.self_attn.qkv_proj"), "kept");
  EXPECT_EQ(rule("0.self_attn.o_proj"), nullptr);
  EXPECT_EQ(read_json("quantize_config.json")["bits"], 4);
  EXPECT_THAT(verify_output(job_.output.path).failures, IsEmpty());
  EXPECT_THAT(notes(), IsEmpty());
  expect_read_back();
}

TEST_F(MixedBits, EveryWidthIsPackedAndReadBack) {
  for (const int bits : {2, 3, 4, 5, 6, 7, 8}) {
    job_.quantization.bits = bits;
    job_.quantization.sym = bits % 2 == 0;
    for (const auto format : {CheckpointFormat::gptq, CheckpointFormat::gptq_v2, CheckpointFormat::gptq_p}) {
      if (!can_hold(format, bits)) continue;
      job_.output.checkpoint_format = name_of(format);
      job_.output.path = (root_ / fmt::format("{}-{}", job_.output.checkpoint_format, bits)).string();
      export_all();
      EXPECT_THAT(verify_output(job_.output.path).failures, IsEmpty()) << job_.output.path;
      expect_read_back();
    }
  }
}

TEST_F(MixedBits, OneCompsList) {
  job_.output.quantization_config = "mixed_gptq";
  job_.quantization.module_bits = {{"down_proj", 8}};
  job_.quantization.mlp_group_size = -1;
  job_.quantization.exclude = {"layers\\.1\\.self_attn"};
  EXPECT_THAT(notes(), IsEmpty());
  export_all();
  const json config = read_json("config.json")["quantization_config"];
  EXPECT_EQ(config["quant_method"], "mixed_gptq");
  EXPECT_FALSE(config.contains("dynamic"));
  const json& bits = config["quantization_bits"];
  ASSERT_EQ(bits.size(), 3u);
  EXPECT_EQ(bits[0]["mlp.down_proj"],
            json::parse(R"({"bits": 8, "method": "gptq", "params": {"group_size": -1}})"));
  EXPECT_EQ(bits[0]["self_attn.q_proj"]["params"]["group_size"], 32);
  EXPECT_FALSE(bits[1].contains("self_attn.q_proj"));
  EXPECT_EQ(bits[1].size(), 3u);
  EXPECT_EQ(config["groupsize"], config["group_size"]);
  EXPECT_EQ(config["actorder"], config["desc_act"]);
  EXPECT_THAT(verify_output(job_.output.path).failures, IsEmpty());
  expect_read_back();
}

TEST_F(MixedBits, WhatTheListCannotSayIsRefused) {
  job_.output.quantization_config = "mixed_gptq";
  job_.quantization.dynamic = {{".*down_proj", {{"sym", "false"}}}};
  EXPECT_THAT(refusal(), HasSubstr("mixed_gptq cannot say that model.layers.0.mlp.down_proj differs from the "
                                   "others in sym or desc_act; use gptq"));
  job_.quantization.dynamic = {{"lm_head", {{"bits", "8"}}}};
  job_.quantization.lm_head = true;
  EXPECT_THAT(refusal(), HasSubstr("cannot say that lm_head differs"));
  job_.output.quantization_config = "gptq";
  EXPECT_EQ(refusal(), "no refusal");
}

TEST_F(MixedBits, DifferencesBetweenJoinedModulesAreNamed) {
  job_.quantization.module_bits = {{"q_proj", 8}};
  job_.quantization.dynamic = {{"-:.*\\.1\\.mlp\\.up", {}}};
  EXPECT_THAT(
      notes(),
      ElementsAre(
          AllOf(HasSubstr("self_attn.qkv_proj and will not load the output: in 3 block(s)"),
                HasSubstr("(self_attn.q_proj 8 bit, group 32, self_attn.k_proj 4 bit, group 32")),
          AllOf(HasSubstr("mlp.gate_up_proj"), HasSubstr("in 1 block(s)"), HasSubstr("unquantized"))));
  job_.quantization.dynamic.clear();
  export_all();
  EXPECT_THAT(failures(), AllOf(Contains(HasSubstr("model.layers.0.self_attn.k_proj differs from "
                                                   "model.layers.0.self_attn.q_proj in bits")),
                                Each(HasSubstr("qkv_proj"))));
  expect_read_back();
}

TEST_F(MixedBits, RulesThatDoNotFitTheTensorsAreFound) {
  job_.quantization.module_bits = {{"down_proj", 8}};
  export_all();
  edit_configs([](json& config) { config["dynamic"].begin().value()["bits"] = 3; });
  EXPECT_THAT(failures(), Contains(AllOf(HasSubstr("down_proj.qweight"), HasSubstr("must be I32 [9, 64]"))));
  EXPECT_THROW(ModelWeights(job_.output.path).check(), InputError);
  edit_configs([](json& config) { config["dynamic"] = {{"+:(", json::object()}}; });
  EXPECT_THAT(failures(), Contains(HasSubstr("has the rule '+:(', which is no regular expression")));
}

TEST_F(MixedBits, RuleForTheJoinedNameMustAgree) {
  job_.quantization.mlp_bits = 8;
  export_all();
  edit_configs([](json& config) {
    json kept = json::object();
    for (const auto& [rule, values] : config["dynamic"].items())
      if (rule.find("gate_up_proj") == std::string::npos) kept[rule] = values;
    config["dynamic"] = kept;
  });
  EXPECT_THAT(failures(),
              Contains(HasSubstr("model.layers.0.mlp.gate_up_proj, the name under which vLLM knows")));
}

TEST_F(MixedBits, InspectCountsTheForms) {
  EXPECT_THAT(inspect_path(job_.model.path), HasSubstr("quantization  none"));
  job_.quantization.module_bits = {{"down_proj", 8}};
  export_all();
  EXPECT_THAT(inspect_path(job_.output.path),
              AllOf(HasSubstr("rules for single modules"), HasSubstr("8 bit, group 32, symmetric: 3 modules"),
                    HasSubstr("4 bit, group 32, symmetric: 18 modules")));
}

TEST_F(MixedBits, LoaderLimitsAreThoseOfEveryModule) {
  job_.quantization.module_bits = {{"down_proj", 3}, {"o_proj", 8}};
  job_.quantization.dynamic = {{".*gate|.*up", {{"sym", "false"}}}};
  export_all();
  EXPECT_THAT(verify_output(job_.output.path).notes,
              AllOf(Contains(AllOf(HasSubstr("Marlin"), HasSubstr("3 bits"), HasSubstr("asymmetric zeros"))),
                    Contains(AllOf(HasSubstr("ExLlamaV2"), HasSubstr("3 bits and 8 bits")))));
}

TEST_F(MixedBits, QuantizedHeadIsWrittenVerifiedAndRead) {
  job_.quantization.lm_head = true;
  job_.quantization.dynamic = {{"lm_head", {{"bits", "8"}, {"group_size", "16"}}}};
  export_all();
  EXPECT_EQ(read_json("quantize_config.json")["lm_head"], true);
  EXPECT_EQ(first_rule(read_json("quantize_config.json")["dynamic"], "lm_head"),
            json({{"bits", 8}, {"group_size", 16}}));
  const SafetensorsReader files(job_.output.path);
  EXPECT_FALSE(files.contains("lm_head.weight"));
  EXPECT_EQ(files.info("lm_head.qweight").shape, (std::vector<std::int64_t>{16, 128}));
  EXPECT_THAT(verify_output(job_.output.path).failures, IsEmpty());
  EXPECT_EQ(verify_output(job_.output.path).quantized_modules, 22);
  const ModelWeights source(job_.model.path), result(job_.output.path);
  result.check();
  const LinearShape head = head_shape(source.architecture(), source.config());
  const QuantizedLayer layer =
      pattern_layer("lm_head", head, Recipe(job_.quantization).section_of("lm_head"));
  expect_same(result.load_head(), dequantize(weights_of(layer)), "lm_head");
  edit_configs([](json& config) { config["lm_head"] = false; });
  EXPECT_THAT(failures(),
              Contains(HasSubstr("lm_head is quantized, but quantization_config says lm_head: false")));
}

TEST_F(MixedBits, FinishMissesAHeadThatWasNotWritten) {
  job_.quantization.lm_head = true;
  const ModelWeights model(job_.model.path);
  const Recipe recipe(job_.quantization);
  Exporter exporter(job_, model, recipe, "fingerprint");
  write_blocks(exporter, model, recipe);
  EXPECT_THROW(exporter.finish(), Error);
}

TEST_F(MixedBits, CorrectionOfNothingIsRefusedOrTold) {
  job_.quantization.correction_alpha = 1;
  job_.quantization.correction_layers = {"q_proj", "up_proj"};
  EXPECT_THAT(refusal(),
              AllOf(HasSubstr("quantization.correction_layers: none of the layers that correction_target "
                              "residual can correct (self_attn.o_proj and mlp.down_proj)"),
                    HasSubstr("set correction_target to output")));
  job_.quantization.correction_target = "output";
  EXPECT_THAT(notes(), IsEmpty());
  job_.quantization.exclude = {"q_proj", "up_proj"};
  EXPECT_THAT(refusal(), HasSubstr("quantization.correction_layers"));
  job_.quantization.correction_target = "residual";
  job_.quantization.correction_layers = {"layers\\.1\\.mlp\\.down_proj"};
  EXPECT_EQ(refusal(), "no refusal");
}

TEST_F(MixedBits, DefaultCorrectionOfALayerThatItCannotCorrectIsTold) {
  job_.quantization.correction_alpha = 1;
  job_.quantization.modules_in_block_to_quantize = {"self_attn.q_proj"};
  EXPECT_THAT(notes(), Contains(HasSubstr("set it to 0 to save the time")));
}

TEST_F(MixedBits, TiedHeadIsRefusedUnlessRotationUntiesIt) {
  make_source({.layers = 3, .tie = true});
  job_.quantization.lm_head = true;
  EXPECT_THAT(refusal(),
              AllOf(HasSubstr("ties lm_head to its embedding"), HasSubstr("rotation to hadamard")));
  EXPECT_THROW(export_all(), UsageError);
  job_.quantization.rotation = "hadamard";
  EXPECT_EQ(refusal(), "no refusal");
}

TEST_F(MixedBits, NamesThatNoLayerHas) {
  job_.quantization.module_bits = {{"down_porj", 8}, {"model.layers.7.mlp.up_proj", 8}, {"up_proj", 3}};
  job_.quantization.modules_in_block_to_quantize = {"self_attn.q_proj", "mlp.gate_up_proj"};
  EXPECT_THAT(
      refusal(),
      AllOf(HasSubstr("quantization.module_bits: no layer is called 'down_porj'"),
            HasSubstr("no layer is called 'model.layers.7.mlp.up_proj'"), Not(HasSubstr("'up_proj'")),
            HasSubstr("no layer of a block is called 'mlp.gate_up_proj'; nearest name 'mlp.gate_proj'")));
}

TEST_F(MixedBits, RulesWithoutEffectAreNoted) {
  job_.quantization.dynamic = {{"layers\\.0", {{"bits", "8"}}}, {"model\\.layers\\.0", {{"bits", "8"}}}};
  job_.quantization.include = {"mlp", "experts"};
  EXPECT_THAT(notes(), ElementsAre("quantization.dynamic: 'layers\\.0' matches no layer",
                                   "quantization.include: 'experts' matches no layer"));
}

TEST_F(MixedBits, NothingLeftToQuantize) {
  job_.quantization.exclude = {"model"};
  EXPECT_THAT(refusal(), HasSubstr("leave no layer to quantize"));
}

TEST_F(MixedBits, ThreeLevelsTellLoadersToReadTheZeros) {
  job_.quantization.trits = true;
  job_.quantization.bits = 2;
  export_all();
  const json config = read_json("quantize_config.json");
  EXPECT_EQ(config["bits"], 2);
  EXPECT_EQ(config["sym"], false) << "loaders that take the middle of two bits for the zero would be wrong";
  EXPECT_EQ(config["meta"]["trits"], true);
  EXPECT_THAT(verify_output(job_.output.path).failures, IsEmpty());
  expect_read_back();
  const ModelWeights result(job_.output.path);
  const HostTensor weight = convert(result.load_block(0).at("mlp.down_proj.weight"), DType::f32);
  const auto* values = reinterpret_cast<const float*>(weight.storage.data());
  std::set<int> signs;
  for (std::int64_t k = 0; k < weight.elements(); ++k) signs.insert((values[k] > 0) - (values[k] < 0));
  EXPECT_EQ(signs, (std::set{-1, 0, 1}));
}

}  // namespace
}  // namespace gptq::test
