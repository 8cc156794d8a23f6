#include "model/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>

#include "backend/backend.h"
#include "base/error.h"
#include "model/model_forward.h"
#include "quant/packing.h"
#include "unit/model_fixture.h"

namespace gptq {
namespace {

using test::EditableModel;
using test::TempDirectory;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const std::string kLayer = "model.layers.1.self_attn.k_proj";

/// What `use` complains of when it meets the llama3 fixture after a change.
std::string complaint(const std::function<void(EditableModel&)>& change,
                      const std::function<void(const ModelWeights&)>& use) {
  const TempDirectory directory;
  EditableModel model("llama3");
  change(model);
  model.write(directory.path());
  try {
    use(ModelWeights(directory.path()));
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}
std::string check_complaint(const std::function<void(EditableModel&)>& change) {
  return complaint(change, [](const ModelWeights& model) { model.check(); });
}
std::string load_complaint(const std::function<void(EditableModel&)>& change) {
  return complaint(change, [](const ModelWeights& model) {
    model.load_embedding();
    model.load_final_norm();
    model.load_head();
    for (std::int64_t b = 0; b < model.config().num_hidden_layers; ++b) model.load_block(b);
  });
}

TEST(ModelWeights, LoadsABlockUnderItsInnerNames) {
  const ModelWeights model(test::fixture_path("qwen3"));
  const BlockWeights block = model.load_block(1);
  EXPECT_EQ(block.block, 1);
  EXPECT_EQ(block.at("self_attn.q_proj.weight").shape, (std::vector<std::int64_t>{96, 32}));
  EXPECT_EQ(block.at("self_attn.q_norm.weight").shape, (std::vector<std::int64_t>{24}));
  EXPECT_EQ(block.tensors.size(), 11u);
  EXPECT_THROW(block.at("self_attn.q_proj.bias"), InputError);
}

TEST(ModelWeights, ATiedHeadIsTheEmbedding) {
  const ModelWeights model(test::fixture_path("llama"));
  ASSERT_TRUE(model.config().tie_word_embeddings);
  EXPECT_EQ(reference::from_matrix(model.load_head().matrix()).values,
            reference::from_matrix(model.load_embedding().matrix()).values);
}

TEST(ModelWeights, CheckAcceptsWhatTransformersWrote) {
  EXPECT_EQ(check_complaint([](EditableModel&) {}), "no error");
}

TEST(ModelWeights, CheckListsEveryMistakeAtOnce) {
  const std::string message = check_complaint([](EditableModel& model) {
    model.tensors.erase(kLayer + ".weight");
    model.tensors.erase("lm_head.weight");
    model.tensors.at("model.norm.weight") = make_tensor(DType::f32, {31});
    model.tensors.at("model.layers.0.mlp.up_proj.weight") = make_tensor(DType::i32, {56, 32});
  });
  EXPECT_THAT(message,
              AllOf(HasSubstr(kLayer + ".weight is missing"), HasSubstr("lm_head.weight is missing"),
                    HasSubstr("model.norm.weight in model.safetensors has shape (31)"), HasSubstr("(32)"),
                    HasSubstr("model.layers.0.mlp.up_proj.weight"), HasSubstr("I32")));
}

TEST(ModelWeights, CheckStopsListingAtTwenty) {
  const std::string message = check_complaint([](EditableModel& model) { model.config["hidden_size"] = 64; });
  EXPECT_THAT(message, HasSubstr("more"));
  EXPECT_LE(std::count(message.begin(), message.end(), '\n'), 21);
}

TEST(ModelWeights, NaNAndInfinityAreNamedWithTheirBlock) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    EXPECT_THAT(load_complaint([&](EditableModel& model) { model.value(kLayer + ".weight", 77) = bad; }),
                AllOf(HasSubstr("block 1"), HasSubstr(kLayer + ".weight"), HasSubstr("NaN or infinity")));
    EXPECT_THAT(
        load_complaint([&](EditableModel& model) { model.value("model.embed_tokens.weight", 3) = bad; }),
        AllOf(HasSubstr("model.embed_tokens.weight"), Not(HasSubstr("block"))));
  }
  for (const DType stored : {DType::f16, DType::bf16}) {
    EXPECT_THAT(load_complaint([&](EditableModel& model) {
                  model.value(kLayer + ".bias", 0) = std::numeric_limits<float>::quiet_NaN();
                  HostTensor& bias = model.tensors.at(kLayer + ".bias");
                  bias = convert(bias, stored);
                }),
                HasSubstr(kLayer + ".bias"));
  }
}

/// Replaces a linear's weight by a random GPTQ-packed one and returns the same weight dequantized.
HostTensor quantize(EditableModel& model, const std::string& module, int bits, std::int64_t group_size,
                    CheckpointFormat format) {
  QuantizedLayer layer;
  const std::vector<std::int64_t> shape = model.tensors.at(module + ".weight").shape;
  layer.out_features = shape[0];
  layer.in_features = shape[1];
  layer.groups = (layer.in_features + group_size - 1) / group_size;
  layer.bits = bits;
  for (std::int64_t i = 0; i < shape[0] * shape[1]; ++i) {
    layer.codes.push_back(static_cast<std::uint8_t>((i * 7 + i / 13) % (1 << bits)));
  }
  for (std::int64_t i = 0; i < shape[0] * layer.groups; ++i) {
    layer.scales.push_back(to_f16(0.01f + 0.001f * static_cast<float>(i % 9)));
    layer.zeros.push_back(static_cast<std::uint8_t>(1 + i % ((1 << bits) - 1)));
  }
  for (std::int64_t c = 0; c < layer.in_features; ++c) {
    layer.group_of.push_back(static_cast<std::int32_t>(c / group_size));
  }
  PackedLayer packed = pack(layer, format);
  model.tensors.erase(module + ".weight");
  model.tensors.emplace(module + ".qweight", std::move(packed.qweight));
  model.tensors.emplace(module + ".qzeros", std::move(packed.qzeros));
  model.tensors.emplace(module + ".scales", std::move(packed.scales));
  model.tensors.emplace(module + ".g_idx", std::move(packed.g_idx));
  model.config["quantization_config"] = {{"quant_method", "gptq"},
                                         {"bits", bits},
                                         {"group_size", group_size},
                                         {"checkpoint_format", name_of(format)}};
  return dequantize(weights_of(layer));
}

TEST(ModelWeights, AQuantizedModelReadsLikeItsDequantizedTwin) {
  const auto backend = make_backend({"cpu", 1});
  const test::ExpectedLogits input("llama3");
  for (const auto format : {CheckpointFormat::gptq, CheckpointFormat::gptq_v2, CheckpointFormat::gptq_p}) {
    for (const int bits : {2, 3, 4, 5, 6, 7, 8}) {
      if (!can_hold(format, bits)) continue;
      EditableModel packed("llama3");
      EditableModel plain("llama3");
      plain.tensors.at(kLayer + ".weight") = quantize(packed, kLayer, bits, 12, format);
      const TempDirectory a, b;
      packed.write(a.path());
      plain.write(b.path());
      const ModelWeights quantized(a.path());
      quantized.check();
      const auto compute = [&](const ModelWeights& model) {
        return reference::from_matrix(logits(*backend, model, input.batch, input.ids, DType::f32).matrix())
            .values;
      };
      EXPECT_EQ(compute(quantized), compute(ModelWeights(b.path()))) << bits << " bits, " << name_of(format);
    }
  }
}

TEST(ModelWeights, QuantizedTensorsThatDoNotFit) {
  const auto broken = [](const std::function<void(EditableModel&)>& change) {
    return [change](EditableModel& model) {
      quantize(model, kLayer, 4, 16, CheckpointFormat::gptq);
      change(model);
    };
  };
  const auto wrong_bits = broken([](EditableModel& m) { m.config["quantization_config"]["bits"] = 8; });
  EXPECT_THAT(check_complaint(wrong_bits), HasSubstr(kLayer + ".qweight"));
  EXPECT_THAT(load_complaint(wrong_bits), AllOf(HasSubstr("block 1"), HasSubstr(kLayer + ".qweight")));
  EXPECT_THAT(check_complaint(broken([](EditableModel& m) { m.tensors.erase(kLayer + ".scales"); })),
              HasSubstr(kLayer + ".scales is missing"));
  EXPECT_THAT(check_complaint(broken([](EditableModel& m) { m.config.erase("quantization_config"); })),
              HasSubstr("quantization_config"));
  EXPECT_THAT(load_complaint(broken([](EditableModel& m) {
                reinterpret_cast<std::int32_t*>(m.tensors.at(kLayer + ".g_idx").storage.data())[5] = 2;
              })),
              HasSubstr(kLayer + ".g_idx[5] is 2"));
  EXPECT_THAT(load_complaint(broken([](EditableModel& m) {
                reinterpret_cast<std::uint16_t*>(m.tensors.at(kLayer + ".scales").storage.data())[0] = 0x7e00;
              })),
              AllOf(HasSubstr("block 1"), HasSubstr(kLayer)));
}

TEST(Backend, NamesAndRefusals) {
  EXPECT_EQ(make_backend({"auto", 2})->threads(), 2);
  EXPECT_GE(make_backend({"cpu", 0})->threads(), 1);
  EXPECT_THAT(make_backend({"cpu", 1})->describe(), HasSubstr("cpu: 1 thread"));
  EXPECT_THROW(make_backend({"tpu", 1}), UsageError);
  EXPECT_THROW(make_backend({"cpu", -1}), UsageError);
  if (built_backends().find("cuda") == std::string::npos) {
    EXPECT_THROW(make_backend({"cuda", 1}), DeviceError);
  }
}

}  // namespace
}  // namespace gptq
