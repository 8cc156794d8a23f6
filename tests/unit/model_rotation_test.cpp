#include "model/model_rotation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/error.h"
#include "model/model_forward.h"
#include "model/weights.h"
#include "support/test_backend.h"
#include "support/tiny_model.h"
#include "unit/model_fixture.h"

namespace gptq {
namespace {

using reference::Array;
using test::EditableModel;
using test::ExpectedLogits;
using test::TempDirectory;
using testing::AllOf;
using testing::HasSubstr;

RotationRounding everything_in_f32() {
  return {[](const std::string&) { return true; }, false};
}
RotationRounding nothing_quantized() {
  return {[](const std::string&) { return false; }, true};
}

double largest_gap(const Array& a, const Array& b) {
  double gap = 0;
  for (std::size_t i = 0; i < b.values.size(); ++i)
    gap = std::max(gap, std::abs(a.values.at(i) - b.values[i]));
  return gap;
}

double norm_of(const Array& a) {
  double sum = 0;
  for (const double value : a.values) sum += value * value;
  return std::sqrt(sum);
}

Array logits_of(const ModelWeights& model, const ExpectedLogits& expected) {
  const auto backend = test::make_test_backend("cpu", 1);
  return reference::from_matrix(logits(*backend, model, expected.batch, expected.ids, DType::f32).matrix());
}

class Rotated : public testing::TestWithParam<const char*> {};

// The fixtures' weights are f32, and transformers computed their logits.
TEST_P(Rotated, ModelGivesTheSameLogits) {
  const ExpectedLogits expected(GetParam());
  ModelWeights model(test::fixture_path(GetParam()));
  model.rotate(everything_in_f32());
  model.check();
  EXPECT_FALSE(model.config().tie_word_embeddings);
  EXPECT_LT(largest_gap(logits_of(model, expected), expected.logits), 2e-4);
}

TEST_P(Rotated, TensorsAreOthers) {
  const ModelWeights plain(test::fixture_path(GetParam()));
  ModelWeights model(test::fixture_path(GetParam()));
  model.rotate(everything_in_f32());
  const BlockWeights before = plain.load_block(1);
  const BlockWeights after = model.load_block(1);
  ASSERT_EQ(before.tensors.size(), after.tensors.size());
  for (const auto& [name, tensor] : before.tensors) {
    const Array now = reference::from_matrix(after.at(name).matrix());
    const bool stays =
        name.ends_with("q_norm.weight") || name.ends_with("k_norm.weight") ||
        (name.ends_with(".bias") && name.find("v_proj") == std::string::npos &&
         name.find("o_proj") == std::string::npos && name.find("down_proj") == std::string::npos);
    EXPECT_EQ(now.values == reference::from_matrix(tensor.matrix()).values, stays) << name;
    if (name.ends_with("layernorm.weight")) {
      EXPECT_EQ(now.values, std::vector<double>(now.values.size(), 1.0)) << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Rotated,
                         testing::Values("llama", "llama3", "mistral", "mistral_linear", "qwen2", "qwen3",
                                         "qwen3_yarn"),
                         [](const auto& test) { return std::string(test.param); });

// Widths that are no powers of two; norms far from one; several query heads to a value head.
TEST(RotatedModel, KeepsItsFunctionWhateverTheWidths) {
  for (const char* type : {"llama", "mistral", "qwen2", "qwen3"}) {
    for (const bool tie : {false, true}) {
      const TempDirectory directory;
      test::TinyModelOptions options;
      options.model_type = type;
      options.hidden = 72;
      options.heads = 6;
      options.tie = tie;
      options.dtype = DType::f32;
      test::write_tiny_model(directory.path(), options);
      const ModelWeights plain(directory.path());
      ModelWeights model(directory.path());
      model.rotate(everything_in_f32());
      ExpectedLogits tokens("llama");
      for (std::int32_t& id : tokens.ids) id %= static_cast<std::int32_t>(options.vocab);
      tokens.logits = logits_of(plain, tokens);
      const Array rotated = logits_of(model, tokens);
      EXPECT_LT(largest_gap(rotated, tokens.logits),
                2e-5 * norm_of(tokens.logits) / std::sqrt(static_cast<double>(rotated.rows)))
          << type << (tie ? ", tied" : "");
    }
  }
}

TEST(RotatedModel, HidesAnOutlierOfTheResidualStream) {
  const TempDirectory directory;
  EditableModel source("llama3");
  const auto hidden = source.config.at("hidden_size").get<std::int64_t>();
  const auto vocab = source.config.at("vocab_size").get<std::int64_t>();
  for (std::int64_t token = 0; token < vocab; ++token) {
    source.value("model.embed_tokens.weight", token * hidden + 5) = 100;
  }
  source.write(directory.path());
  const auto largest_share = [](const ModelWeights& model) {
    const Array table = reference::from_matrix(model.load_embedding().matrix());
    double largest = 0;
    for (const double value : table.values) largest = std::max(largest, std::abs(value));
    return largest / norm_of(table) * std::sqrt(static_cast<double>(table.values.size()));
  };
  ModelWeights model(directory.path());
  EXPECT_GT(largest_share(model), 4);
  model.rotate(everything_in_f32());
  EXPECT_LT(largest_share(model), 1.5);
}

TEST(RotatedModel, TensorsThatAreKeptHaveTheSourcesType) {
  const TempDirectory directory;
  test::TinyModelOptions options;
  options.model_type = "qwen2";
  options.dtype = DType::bf16;
  test::write_tiny_model(directory.path(), options);
  ModelWeights model(directory.path());
  model.rotate({[](const std::string& module) { return module.ends_with("v_proj"); }, true});
  const BlockWeights block = model.load_block(0);
  for (const auto& [name, tensor] : block.tensors) {
    const DType expected = name == "self_attn.v_proj.weight" ? DType::f32
                           : name == "self_attn.v_proj.bias" ? DType::f16
                                                             : DType::bf16;
    EXPECT_EQ(tensor.dtype, expected) << name;
  }
  EXPECT_EQ(model.load_embedding().dtype, DType::bf16);
  EXPECT_EQ(model.load_head().dtype, DType::bf16);
  EXPECT_EQ(model.load_final_norm().dtype, DType::bf16);
  EXPECT_EQ(model.load_outside_blocks("model.norm.weight").elements(), options.hidden);
}

std::string complaint(const std::function<void(EditableModel&)>& change) {
  const TempDirectory directory;
  EditableModel source("llama3");
  change(source);
  source.write(directory.path());
  try {
    ModelWeights model(directory.path());
    model.rotate(nothing_quantized());
    for (std::int64_t block = 0; block < model.config().num_hidden_layers; ++block) model.load_block(block);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(RotatedModel, IsRefusedWhereItDoesNotFit) {
  EXPECT_EQ(complaint([](EditableModel&) {}), "no error");
  EXPECT_THAT(complaint([](EditableModel& m) {
                m.tensors.emplace("model.layers.0.extra_norm.weight", make_tensor(DType::f32, {4}));
              }),
              AllOf(HasSubstr("model.layers.0.extra_norm.weight"), HasSubstr("quantization.rotation"),
                    HasSubstr("set it to none")));
  EXPECT_THAT(complaint([](EditableModel& m) { m.config["hidden_size"] = 2 * 257; }),
              HasSubstr("hidden_size is 514 = 2 x 257"));
  EXPECT_THAT(complaint([](EditableModel& m) { m.config["head_dim"] = 2 * 263; }),
              HasSubstr("head_dim is 526 = 2 x 263"));
  EXPECT_THAT(complaint([](EditableModel& m) {
                m.tensors.emplace("model.layers.1.mlp.up_proj.qweight", make_tensor(DType::i32, {1, 1}));
              }),
              HasSubstr("quantized already"));
  Architecture offset = find_architecture("llama");
  offset.norm_weight_offset = 1;
  const ModelWeights model(test::fixture_path("llama"));
  EXPECT_THROW(ModelRotation(model.config(), offset, model.tensors(), nothing_quantized()), UsageError);
}

TEST(RotatedModel, AValueThatOutgrowsItsTypeIsNamed) {
  const TempDirectory directory;
  EditableModel source("llama3");
  for (auto& [name, tensor] : source.tensors) tensor = convert(tensor, DType::f16);
  HostTensor& up = source.tensors.at("model.layers.1.mlp.up_proj.weight");
  std::fill_n(up.matrix().row<f16>(0), up.elements(), to_f16(60000));
  source.write(directory.path());
  ModelWeights model(directory.path());
  model.rotate(nothing_quantized());
  try {
    model.load_block(1);
    FAIL();
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("model.layers.1.mlp.up_proj.weight"), HasSubstr("F16")));
  }
}

}  // namespace
}  // namespace gptq
