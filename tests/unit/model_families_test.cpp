// Families whose blocks are no Llama's: layouts, refused keys, and the forward pass through quantized layers.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "base/error.h"
#include "model/decoder_block.h"
#include "model/model_ends.h"
#include "model/model_rotation.h"
#include "support/test_backend.h"
#include "unit/model_fixture.h"

namespace gptq {
namespace {

using reference::Array;
using test::EditableModel;
using test::ExpectedLogits;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// ---- quantized forward

/// A layer in 4 bits as make_fixtures.py rounds it: for each 16 columns of a row the scale max/7, codes
/// around 8.
struct RoundedLayer {
  static constexpr std::int64_t kGroup = 16;
  std::vector<std::uint8_t> codes, zeros;
  std::vector<f16> scales;
  std::vector<std::int32_t> group_of;
  QuantizedWeights view;

  explicit RoundedLayer(const Matrix& weight) {
    const std::int64_t groups = (weight.cols + kGroup - 1) / kGroup;
    for (std::int64_t c = 0; c < weight.cols; ++c) group_of.push_back(static_cast<std::int32_t>(c / kGroup));
    for (std::int64_t r = 0; r < weight.rows; ++r) {
      for (std::int64_t g = 0; g < groups; ++g) add_group(weight, r, g * kGroup);
    }
    view = {weight.rows, weight.cols, groups, codes.data(), scales.data(), zeros.data(), group_of.data()};
  }
  RoundedLayer(const RoundedLayer&) = delete;
  RoundedLayer& operator=(const RoundedLayer&) = delete;

 private:
  void add_group(const Matrix& weight, std::int64_t row, std::int64_t first) {
    const std::int64_t end = std::min(weight.cols, first + kGroup);
    const float* const values = weight.row<float>(row);
    float largest = 0;
    for (std::int64_t c = first; c < end; ++c) largest = std::max(largest, std::abs(values[c]));
    scales.push_back(to_f16(largest / 7));
    zeros.push_back(8);
    const float scale = to_float(scales.back());
    for (std::int64_t c = first; c < end; ++c) {
      const float code = std::nearbyint(values[c] / scale) + 8;
      codes.push_back(static_cast<std::uint8_t>(std::clamp(code, 0.0f, 15.0f)));
    }
  }
};

using Fixture = std::tuple<std::string, const char*>;  // backend, model

const char* const kFixtures[] = {"gemma3_text",
                                 "gemma2",
                                 "phi3",
                                 "phi3_long",
                                 "olmo2",
                                 "granite",
                                 "smollm3",
                                 "opt",
                                 "gpt2",
                                 "gpt_neox",
                                 "gpt_neox_sequential",
                                 "falcon_7b",
                                 "falcon_40b",
                                 "falcon_rw",
                                 "bloom",
                                 "stablelm",
                                 "stablelm_parallel"};

class QuantizedForward : public testing::TestWithParam<Fixture>, protected test::OnBackend {
 protected:
  void SetUp() override { start(std::get<0>(GetParam())); }

  Array logits_with_rounded_layers() {
    const ModelConfig& config = model_.config();
    const Batch& batch = expected_.batch;
    const DeviceMatrix hidden(backend(), DType::f32, batch.rows(), config.hidden_size);
    TokenEmbedding(backend(), model_).run(batch, expected_.ids, hidden.matrix());
    const DevicePositions positions(backend(), config, 32);
    for (std::int64_t index = 0; index < config.num_hidden_layers; ++index) {
      const BlockWeights weights = model_.load_block(index);
      DecoderBlock block(backend(), model_, weights, positions, DType::f32);
      for (const LinearShape& layer : model_.layout(index).layers()) {
        const RoundedLayer rounded(weights.at(layer.name + ".weight").matrix());
        block.set_linear(layer.name, rounded.view);
      }
      block.forward(batch, hidden.matrix());
    }
    FinalNorm(backend(), model_).run(hidden.matrix(), hidden.matrix());
    const auto head = kernels().prepare_linear(model_.load_head().matrix(), {}, DType::f32);
    const DeviceMatrix result(backend(), DType::f32, batch.rows(), config.vocab_size);
    kernels().linear(batch, hidden.matrix(), *head, result.matrix(), false);
    Array logits = reference::from_matrix(result.to_host(backend()).matrix());
    const LogitForm& form = config.logits;
    for (double& z : logits.values) {
      z *= static_cast<double>(form.scale);
      if (form.cap > 0) z = static_cast<double>(form.cap) * std::tanh(z / static_cast<double>(form.cap));
    }
    return logits;
  }

  ExpectedLogits expected_{std::get<1>(GetParam())};
  ModelWeights model_{test::fixture_path(std::get<1>(GetParam()))};
};

TEST_P(QuantizedForward, AgreesWithTransformersOnTheSameCodes) {
  const Array got = logits_with_rounded_layers();
  ASSERT_EQ(got.values.size(), expected_.quantized_logits.values.size());
  double gap = 0, from_dense = 0;
  for (std::size_t i = 0; i < got.values.size(); ++i) {
    gap = std::max(gap, std::abs(got.values[i] - expected_.quantized_logits.values[i]));
    from_dense = std::max(from_dense, std::abs(got.values[i] - expected_.logits.values[i]));
  }
  EXPECT_LT(gap, test::tolerances_of(backend().name()).logits);
  EXPECT_GT(from_dense, 0.01) << "nothing was quantized";
}

INSTANTIATE_TEST_SUITE_P(Fixtures, QuantizedForward,
                         testing::Combine(testing::ValuesIn(test::test_backends()),
                                          testing::ValuesIn(kFixtures)),
                         [](const testing::TestParamInfo<Fixture>& info) {
                           return std::get<0>(info.param) + "_" + std::get<1>(info.param);
                         });

// ---- layouts

std::vector<std::string> group_names(const BlockLayout& layout) {
  std::vector<std::string> names;
  for (std::int64_t g = 0; g < layout.groups(); ++g) names.push_back(layout.group(g).name);
  return names;
}

TEST(BlockLayouts, ParallelBlocksWithTwoNormsHoldTwoInputsSideBySide) {
  const ModelWeights model(test::fixture_path("gpt_neox"));
  const BlockLayout& layout = model.layout(0);
  ASSERT_EQ(layout.steps.size(), 3u);
  EXPECT_THAT(group_names(layout), ElementsAre("attention_in", "mlp_in", "attention_out", "mlp_out"));
  EXPECT_EQ(layout.steps[0].width, 64);
  EXPECT_EQ(layout.group(1).first_column, 32);
  EXPECT_EQ(layout.steps[1].width, 32 + 56);
  EXPECT_EQ(layout.steps[2].width, 32 + 56);
  EXPECT_EQ(layout.group(3).first_column, 32);
  EXPECT_EQ(layout.group(3).in_features, 56);
  EXPECT_TRUE(layout.group(3).adds_to_residual);
  std::vector<std::int64_t> steps;
  for (std::int64_t g = 0; g <= 4; ++g) steps.push_back(layout.step_of(g));
  EXPECT_THAT(steps, ElementsAre(0, 0, 1, 2, 3));
}

TEST(BlockLayouts, ParallelBlocksWithOneNormHaveOneInput) {
  const ModelWeights model(test::fixture_path("stablelm_parallel"));
  const BlockLayout& layout = model.layout(1);
  EXPECT_THAT(group_names(layout), ElementsAre("block_in", "attention_out", "mlp_out"));
  EXPECT_EQ(layout.group(0).layers.size(), 5u);
  EXPECT_EQ(layout.widest_step(), 32 + 56);
}

TEST(BlockLayouts, ANormOrFactorBehindALayerHidesTheResidualStream) {
  for (const char* name : {"gemma3_text", "olmo2", "granite"}) {
    const ModelWeights model(test::fixture_path(name));
    for (const std::int64_t group : {1, 3}) {
      EXPECT_TRUE(model.layout(0).steps[static_cast<std::size_t>(group)].writes_residual) << name;
      EXPECT_FALSE(model.layout(0).group(group).adds_to_residual) << name;
    }
  }
}

TEST(FusedModules, HaveNothingToBeJoinedWith) {
  EXPECT_TRUE(joined_modules(find_architecture("phi3")).empty());
  EXPECT_TRUE(joined_modules(find_architecture("gpt_neox")).empty());
  EXPECT_EQ(joined_modules(find_architecture("opt")).size(), 1u);
  EXPECT_EQ(joined_modules(find_architecture("olmo2")).size(), 2u);
}

// ---- names in files

TEST(NamesInFiles, TheBasePrefixMayBeMissing) {
  const ModelWeights model(test::fixture_path("gpt2"));
  model.check();
  EXPECT_EQ(block_prefix(model.architecture(), 1), "h.1.");
  EXPECT_EQ(model.architecture().embedding, "wte");
  EXPECT_EQ(find_architecture("gpt2").embedding, "transformer.wte");
}

TEST(NamesInFiles, TheHeadMayHaveItsOldName) {
  const ModelWeights old_name(test::fixture_path("gpt_neox_sequential"));
  EXPECT_EQ(old_name.architecture().head, "embed_out");
}

TEST(TransposedLinears, AreTurnedWhenTheyAreLoaded) {
  const ModelWeights model(test::fixture_path("gpt2"));
  const HostTensor stored = model.files().read("h.0.mlp.c_fc.weight");
  const BlockWeights weights = model.load_block(0);
  const HostTensor& turned = weights.at("mlp.c_fc.weight");
  EXPECT_EQ(stored.shape, (std::vector<std::int64_t>{32, 128}));
  EXPECT_EQ(turned.shape, (std::vector<std::int64_t>{128, 32}));
  EXPECT_EQ(stored.matrix().row<float>(3)[70], turned.matrix().row<float>(70)[3]);
  EXPECT_EQ(test::bytes_of(transposed(turned)), test::bytes_of(stored));
}

// ---- config.json

struct Refusal {
  const char* fixture;
  const char* key;
  nlohmann::json value;
  const char* message;
};

TEST(RefusedKeys, AreNamedWithWhatIsWrong) {
  const std::vector<Refusal> refusals = {
      {"gemma3_text", "use_bidirectional_attention", true, "causal"},
      {"gemma2", "use_bidirectional_attention", true, "causal"},
      {"gemma2", "layer_types", nlohmann::json::array({"full_attention"}), "must name every block's type"},
      {"gemma2",
       "layer_types",
       {"full_attention", "chunked_attention"},
       "sliding_attention and full_attention"},
      {"gemma2", "query_pre_attn_scalar", 0, "must be > 0"},
      {"phi3_long",
       "rope_parameters",
       {{"rope_type", "longrope"}, {"short_factor", {1.0, -1.0}}},
       "numbers > 0"},
      {"granite", "logits_scaling", -1.0, "must be > 0"},
      {"smollm3", "no_rope_layers", nlohmann::json::array({1}), "for every block"},
      {"opt", "do_layer_norm_before", false, "350M"},
      {"opt", "word_embed_proj_dim", 16, "350M"},
      {"opt", "_remove_final_layer_norm", true, "final norm"},
      {"opt", "layer_norm_elementwise_affine", false, "norms without weights"},
      {"opt", "activation_function", "quick_gelu", "must be silu, gelu"},
      {"gpt2", "add_cross_attention", true, "encoder"},
      {"gpt2", "n_embd", nullptr, "n_embd is required"},
      {"falcon_40b", "parallel_attn", false, "must be true with new_decoder_architecture"},
      {"falcon_7b", "num_ln_in_parallel_attn", 2, "must be 1"},
      {"falcon_rw", "num_kv_heads", 2, "must be num_attention_heads"},
      {"bloom", "apply_residual_connection_post_layernorm", true, "passes no norm"},
  };
  for (const Refusal& refusal : refusals) {
    SCOPED_TRACE(testing::Message() << refusal.fixture << ", " << refusal.key);
    const test::TempDirectory directory;
    EditableModel model(refusal.fixture);
    model.config[refusal.key] = refusal.value;
    std::ofstream(directory / "config.json") << model.config;
    try {
      read_model_config(directory.path());
      ADD_FAILURE() << "not refused";
    } catch (const InputError& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("config.json"), HasSubstr(refusal.message)));
    }
  }
}

TEST(FamilyKeys, NullIsNotAbsent) {
  const auto read = [](const char* fixture, const char* key, bool null) {
    const test::TempDirectory directory;
    EditableModel model(fixture);
    model.config.erase(key);
    if (null) model.config[key] = nullptr;
    std::ofstream(directory / "config.json") << model.config;
    return read_model_config(directory.path());
  };
  EXPECT_EQ(read("gemma2", "sliding_window", false).attention[0].window, 4096);
  EXPECT_EQ(read("gemma2", "sliding_window", true).attention[0].window, 0);
  EXPECT_EQ(read("gemma2", "attn_logit_softcapping", false).attention_softcap, 50);
  EXPECT_EQ(read("gemma2", "attn_logit_softcapping", true).attention_softcap, 0);
  EXPECT_EQ(read("gemma2", "final_logit_softcapping", false).logits.cap, 30);
  EXPECT_EQ(read("gemma2", "final_logit_softcapping", true).logits.cap, 0);
  EXPECT_EQ(read("gemma3_text", "final_logit_softcapping", false).logits.cap, 0);
  EXPECT_EQ(read("gpt2", "n_inner", true).intermediate_size, 128);
}

TEST(FamilyKeys, TheHeadIsTiedByDefaultInSomeFamilies) {
  for (const auto& [fixture, tied] : std::vector<std::pair<const char*, bool>>{{"gemma2", true},
                                                                               {"opt", true},
                                                                               {"bloom", true},
                                                                               {"falcon_7b", true},
                                                                               {"phi3", false},
                                                                               {"gpt_neox", false},
                                                                               {"stablelm", false}}) {
    const test::TempDirectory directory;
    EditableModel model(fixture);
    model.config.erase("tie_word_embeddings");
    std::ofstream(directory / "config.json") << model.config;
    EXPECT_EQ(read_model_config(directory.path()).tie_word_embeddings, tied) << fixture;
  }
}

TEST(GemmaEmbedding, FactorIsRoundedToTheTablesType) {
  const auto scale = [](const char* dtype) {
    const test::TempDirectory directory;
    EditableModel model("gemma2");
    model.config.erase("torch_dtype");
    model.config["dtype"] = dtype;
    model.config["hidden_size"] = 640;
    std::ofstream(directory / "config.json") << model.config;
    return read_model_config(directory.path()).embedding_scale;
  };
  EXPECT_EQ(scale("bfloat16"), 25.25f);
  EXPECT_FLOAT_EQ(scale("float32"), std::sqrt(640.0f));
}

// ---- positions

TEST(Alibi, SlopesOfPowersOfTwoAndOthers) {
  ModelConfig config;
  config.num_attention_heads = 6;
  const std::vector<float> bias = alibi_bias(config, 3);
  ASSERT_EQ(bias.size(), 18u);
  // Four heads have 2^-2, 2^-4, 2^-6, 2^-8; the others the first and third of eight: 2^-1, 2^-3.
  const double slopes[] = {0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125};
  for (std::size_t h = 0; h < 6; ++h) {
    for (std::size_t p = 0; p < 3; ++p)
      EXPECT_NEAR(static_cast<double>(bias[3 * h + p]), slopes[h] * static_cast<double>(p), 1e-7);
  }
}

TEST(Longrope, LongerSamplesThanTheTrainedLengthAreRefused) {
  const ModelWeights model(test::fixture_path("phi3_long"));
  EXPECT_NO_THROW(make_rotary_angles(model.config(), 32));
  try {
    make_rotary_angles(model.config(), 33);
    ADD_FAILURE() << "not refused";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("longrope"), HasSubstr("original_max_position_embeddings 32")));
  }
}

TEST(LearnedPositions, LongerSamplesAreRefused) {
  const auto place = test::make_test_backend("cpu");
  const ModelWeights model(test::fixture_path("opt"));
  const TokenEmbedding embedding(*place, model);
  const std::vector<std::int32_t> ids(65, 3);
  const DeviceMatrix hidden(*place, DType::f32, 65, 32);
  embedding.run(Batch{{0, 1, 65}}, ids, hidden.matrix());
  EXPECT_THROW(embedding.run(Batch{{0, 65}}, ids, hidden.matrix()), InputError);
}

// ---- rotation

TEST(RotationOfOtherFamilies, IsRefusedWithTheFamilysName) {
  for (const char* name : {"gemma3_text", "olmo2", "opt", "gpt_neox", "granite"}) {
    ModelWeights model(test::fixture_path(name));
    try {
      model.rotate({[](const std::string&) { return false; }, false});
      ADD_FAILURE() << name << " was turned";
    } catch (const UsageError& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr(model.config().model_type), HasSubstr("set it to none")));
    }
  }
}

}  // namespace
}  // namespace gptq
