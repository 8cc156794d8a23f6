// Weights stored in fp8, read as ordinary ones.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <tuple>

#include "base/error.h"
#include "base/fp8.h"
#include "model/fp8_weight.h"
#include "model/model_forward.h"
#include "model/source_tensors.h"
#include "model/weights.h"
#include "support/reference_fp8.h"
#include "support/test_backend.h"
#include "unit/model_fixture.h"

namespace gptq {
namespace {

using test::EditableModel;
using test::TempDirectory;
using testing::AllOf;
using testing::HasSubstr;

const std::string kWeight = "model.layers.1.mlp.up_proj.weight";  // (56, 32) in the fixture llama

std::string bytes_of(const HostTensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.storage.data()), tensor.storage.size()};
}

/// expected.safetensors of a fixture, under the name that the reader wants.
class Expected {
 public:
  explicit Expected(const std::string& fixture) {
    std::filesystem::copy_file(test::fixture_path(fixture) / "expected.safetensors",
                               folder_ / "model.safetensors");
    reader_ = std::make_unique<SafetensorsReader>(folder_.path());
  }
  const SafetensorsReader& tensors() const { return *reader_; }

 private:
  TempDirectory folder_;
  std::unique_ptr<SafetensorsReader> reader_;
};

TEST(Fp8, EveryCodeIsTorchsValue) {
  const Expected expected("fp8_blocks");
  const HostTensor codes = expected.tensors().read("codes"), values = expected.tensors().read("values");
  ASSERT_EQ(codes.elements(), 256);
  for (int i = 0; i < 256; ++i) {
    const auto code = static_cast<std::uint8_t>(codes.storage.data()[i]);
    const float torchs = reinterpret_cast<const float*>(values.storage.data())[i];
    const float ours = to_float(f8_e4m3{code});
    if (std::isnan(torchs)) {
      EXPECT_TRUE(std::isnan(ours)) << i;
      EXPECT_TRUE(std::isnan(test::fp8_value(code))) << i;
    } else {
      EXPECT_EQ(std::bit_cast<std::uint32_t>(ours), std::bit_cast<std::uint32_t>(torchs)) << i;
      EXPECT_EQ(test::fp8_value(code), static_cast<double>(torchs)) << i;
    }
  }
}

class Fp8Fixture : public testing::TestWithParam<const char*> {};

TEST_P(Fp8Fixture, WeightsAreTorchsBitForBit) {
  const Expected expected(GetParam());
  const ModelWeights model(test::fixture_path(GetParam()));
  model.check();
  std::size_t weights = 0;
  for (const auto& [name, info] : expected.tensors().tensors()) {
    if (!name.starts_with("decoded.")) continue;
    const std::string weight = name.substr(8);
    EXPECT_TRUE(model.tensors().is_decoded(weight)) << weight;
    EXPECT_EQ(model.tensors().info(weight).dtype, DType::bf16);
    EXPECT_EQ(bytes_of(model.tensors().read(weight)), bytes_of(expected.tensors().read(name))) << weight;
    ++weights;
  }
  EXPECT_GE(weights, 12u);
  EXPECT_EQ(model.tensors().decoded().size(), weights);
  for (const auto& [name, info] : model.tensors().all()) {
    EXPECT_FALSE(name.ends_with("_scale") || name.ends_with("_scale_inv")) << name;
    EXPECT_EQ(model.tensors().read(name).storage.size(), info.bytes) << name;
  }
}

TEST_P(Fp8Fixture, LogitsAgreeWithTransformers) {
  const auto backend = make_backend({"cpu", 1});
  const test::ExpectedLogits expected(GetParam());
  const ModelWeights model(test::fixture_path(GetParam()));
  const reference::Array got =
      reference::from_matrix(logits(*backend, model, expected.batch, expected.ids, DType::f32).matrix());
  ASSERT_EQ(got.values.size(), expected.logits.values.size());
  for (std::size_t i = 0; i < got.values.size(); ++i)
    ASSERT_NEAR(got.values[i], expected.logits.values[i], 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Fp8Fixture, testing::Values("fp8_blocks", "fp8_rows"));

TEST(Fp8Weights, OfAllTypesKeepTheirs) {
  const ModelWeights model(test::fixture_path("fp8_blocks"));
  const BlockWeights first = model.load_block(0), second = model.load_block(1);
  EXPECT_EQ(first.at("self_attn.q_proj.weight").dtype, DType::bf16);
  EXPECT_EQ(first.at("self_attn.o_proj.weight").dtype, DType::bf16);  // was never in fp8
  EXPECT_EQ(second.at("mlp.down_proj.weight").dtype, DType::f16);
  EXPECT_EQ(second.at("input_layernorm.weight").dtype, DType::f32);
  EXPECT_EQ(model.tensors().stored_bytes("model.layers.0.mlp.up_proj.weight"), 56u * 32 + 4 * 3 * 2);
  EXPECT_EQ(model.tensors().info("model.layers.0.mlp.up_proj.weight").bytes, 56u * 32 * 2);
}

/// Gives the model's weight kWeight these scales; returns its codes.
std::vector<std::uint8_t> store_in_fp8(EditableModel& model, const std::vector<float>& scales,
                                       std::vector<std::int64_t> shape_of_scales, const std::string& suffix) {
  HostTensor& weight = model.tensors.at(kWeight);
  const std::vector<std::uint8_t> codes = test::random_fp8_codes(weight.elements(), 7);
  weight = make_tensor(DType::f8_e4m3, weight.shape);
  std::memcpy(weight.storage.data(), codes.data(), codes.size());
  HostTensor stored = make_tensor(DType::f32, std::move(shape_of_scales));
  EXPECT_EQ(static_cast<std::size_t>(stored.elements()), scales.size());
  std::memcpy(stored.storage.data(), scales.data(), stored.storage.size());
  model.tensors.insert_or_assign(kWeight + suffix, std::move(stored));
  return codes;
}

std::vector<float> some_scales(std::int64_t count) {
  std::vector<float> scales;
  for (std::int64_t i = 0; i < count; ++i) scales.push_back(0.003f * static_cast<float>(1 + i % 17) / 7.0f);
  return scales;
}

struct ScaleCase {
  std::vector<std::int64_t> shape;
  std::int64_t rows, cols;  ///< that share a scale
};

TEST(Fp8Weights, ScalesOfEveryShape) {
  const std::vector<ScaleCase> cases{{{}, 56, 32},     {{1}, 56, 32},    {{1, 1}, 56, 32}, {{56}, 1, 32},
                                     {{56, 1}, 1, 32}, {{4, 3}, 16, 12}, {{56, 2}, 1, 16}};
  for (const ScaleCase& test : cases) {
    for (const char* dtype : {"bfloat16", "float32", "float16"}) {
      EditableModel model("llama");
      model.config["torch_dtype"] = dtype;
      model.config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {16, 12}}};
      if (test.cols == 16) {
        model.config["quantization_config"] = nlohmann::json::parse(
            R"({"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups":
                {"g": {"weights": {"type": "float", "num_bits": 8, "strategy": "group", "group_size": 16}}}})");
      }
      std::int64_t count = 1;
      for (const std::int64_t extent : test.shape) count *= extent;
      const std::vector<float> scales = some_scales(count);
      const auto codes = store_in_fp8(model, scales, test.shape, count % 2 == 0 ? "_scale" : "_scale_inv");
      const TempDirectory directory;
      model.write(directory.path());
      const ModelWeights read(directory.path());
      read.check();
      const HostTensor expected =
          test::decoded_fp8(codes, 56, 32, scales, test.rows, test.cols, read.config().dtype);
      EXPECT_EQ(bytes_of(read.tensors().read(kWeight)), bytes_of(expected)) << count << " scales, " << dtype;
    }
  }
}

// Codes are decoded where they were read to: no shape may run over those not decoded yet.
TEST(Fp8Weights, AreDecodedInPlace) {
  const TempDirectory directory;
  for (const auto& [rows, cols, block_rows, block_cols] :
       std::vector<std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>>{{1, 1, 1, 1},
                                                                                       {1, 7, 1, 3},
                                                                                       {7, 1, 2, 1},
                                                                                       {33, 17, 8, 5},
                                                                                       {2, 300, 128, 128},
                                                                                       {300, 2, 128, 128}}) {
    const std::int64_t down = (rows + block_rows - 1) / block_rows,
                       across = (cols + block_cols - 1) / block_cols;
    const std::vector<std::uint8_t> codes = test::random_fp8_codes(rows * cols, 3);
    const std::vector<float> scales = some_scales(down * across);
    HostTensor weight = make_tensor(DType::f8_e4m3, {rows, cols}),
               stored = make_tensor(DType::f32, {down, across});
    std::memcpy(weight.storage.data(), codes.data(), codes.size());
    std::memcpy(stored.storage.data(), scales.data(), stored.storage.size());
    SafetensorsWriter writer(
        directory / "model.safetensors",
        {{"w", {DType::f8_e4m3, weight.shape, "", 0, 0}}, {"s", {DType::f32, stored.shape, "", 0, 0}}});
    writer.write("w", weight);
    writer.write("s", stored);
    writer.finish();
    const SafetensorsReader files(directory.path());
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      EXPECT_EQ(bytes_of(read_fp8_weight(files, "w", {"s", {block_rows, block_cols}}, dtype)),
                bytes_of(test::decoded_fp8(codes, rows, cols, scales, block_rows, block_cols, dtype)))
          << rows << " x " << cols << " to " << name_of(dtype);
    }
  }
}

/// What check() or the loading of block 1 says after a change to a model whose kWeight has four by two
/// scales.
std::string complaint(const std::function<void(EditableModel&)>& change) {
  EditableModel model("llama");
  model.config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {16, 16}}};
  store_in_fp8(model, some_scales(8), {4, 2}, "_scale_inv");
  change(model);
  const TempDirectory directory;
  model.write(directory.path());
  try {
    const ModelWeights weights(directory.path());
    weights.check();
    weights.load_block(1);
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Fp8Weights, MistakesAreNamed) {
  const std::string scales = kWeight + "_scale_inv";
  EXPECT_EQ(complaint([](EditableModel&) {}), "no error");
  EXPECT_THAT(complaint([&](EditableModel& m) { m.tensors.erase(scales); }),
              AllOf(HasSubstr(kWeight), HasSubstr("neither"), HasSubstr(scales)));
  EXPECT_THAT(
      complaint([&](EditableModel& m) { m.tensors[kWeight + "_scale"] = make_tensor(DType::f32, {1}); }),
      HasSubstr("two tensors of scales"));
  EXPECT_THAT(complaint([&](EditableModel& m) {
                m.tensors[scales] = make_tensor(DType::f32, {3, 2});
              }),
              AllOf(HasSubstr("(3, 2)"), HasSubstr("(1, 1) or (56, 1) or (4, 2)")));
  EXPECT_THAT(complaint([&](EditableModel& m) {
                m.tensors[scales] = make_tensor(DType::i32, {4, 2});
              }),
              AllOf(HasSubstr(scales), HasSubstr("I32")));
  EXPECT_THAT(complaint([](EditableModel& m) { m.config.erase("quantization_config"); }),
              AllOf(HasSubstr(kWeight), HasSubstr("F8_E4M3"), HasSubstr("no quantization_config")));
  EXPECT_THAT(complaint([](EditableModel& m) {
                const nlohmann::json group = {
                    {"type", "float"}, {"num_bits", 8}, {"strategy", "block"}, {"block_structure", {16, 16}}};
                nlohmann::json other = group;
                other["block_structure"] = {14, 16};
                m.config["quantization_config"] = {
                    {"quant_method", "compressed-tensors"},
                    {"config_groups", {{"a", {{"weights", group}}}, {"b", {{"weights", other}}}}}};
              }),
              AllOf(HasSubstr("16 x 16 or of 14 x 16"), HasSubstr("lists both")));
  EXPECT_THAT(complaint([](EditableModel& m) { m.tensors.at(kWeight).storage.data()[5] = std::byte{0xff}; }),
              AllOf(HasSubstr("block 1"), HasSubstr(kWeight), HasSubstr("NaN")));
  EXPECT_THAT(
      complaint([&](EditableModel& m) { m.value(scales, 3) = std::numeric_limits<float>::infinity(); }),
      AllOf(HasSubstr("block 1"), HasSubstr(scales), HasSubstr("infinity")));
  EXPECT_THAT(complaint([](EditableModel& m) {
                const std::string experts = "model.layers.0.mlp.experts.gate_up_proj";
                m.tensors[experts] = make_tensor(DType::f8_e4m3, {2, 3, 4});
                m.tensors[experts + "_scale_inv"] = make_tensor(DType::f32, {2, 1, 1});
              }),
              AllOf(HasSubstr("experts.gate_up_proj"), HasSubstr("(2, 3, 4)"), HasSubstr("one by one")));
}

TEST(Fp8Weights, OfLayersThatLieTheOtherWayAreRefused) {
  EditableModel model("gpt2");
  const std::string name = "h.0.attn.c_proj.weight";
  model.tensors.at(name) = make_tensor(DType::f8_e4m3, model.tensors.at(name).shape);
  model.tensors[name + "_scale"] = make_tensor(DType::f32, {1});
  model.config["quantization_config"] = {{"quant_method", "fp8"}};
  const TempDirectory directory;
  model.write(directory.path());
  EXPECT_THROW(
      {
        try {
          ModelWeights(directory.path()).check();
        } catch (const InputError& error) {
          EXPECT_THAT(error.what(), AllOf(HasSubstr(name), HasSubstr("(in, out)")));
          throw;
        }
      },
      InputError);
}

}  // namespace
}  // namespace gptq
