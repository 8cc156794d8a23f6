// quantization_config of sources in fp8: the forms that are known, and refusals that name what is not.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/fp8_config.h"
#include "model/json_fields.h"
#include "model/quantized_config.h"

namespace gptq {
namespace {

using nlohmann::ordered_json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Fp8Config read(const std::string& quantization) {
  const ordered_json config = ordered_json::parse("{\"quantization_config\": " + quantization + "}");
  const JsonFields fields(config, "config.json");
  EXPECT_FALSE(read_quantized_config(fields).present);
  return read_fp8_config(fields);
}

std::string complaint(const std::string& quantization) {
  try {
    read(quantization);
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

/// One scheme of compressed-tensors, with these weights.
std::string scheme(const std::string& weights, const std::string& more = "") {
  return R"({"quant_method": "compressed-tensors", "format": "float-quantized")" + more +
         R"(, "config_groups": {"group_0": {"targets": ["Linear"], "weights": )" + weights + "}}}";
}

TEST(Fp8Config, KnownForms) {
  EXPECT_THAT(read(R"({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 64]})").blocks,
              ElementsAre(Fp8Block{128, 64}));
  EXPECT_THAT(read(R"({"quant_method": "fp8", "activation_scheme": "static"})").blocks,
              ElementsAre(Fp8Block{128, 128}));
  EXPECT_THAT(read(R"({"quant_method": "fp8", "weight_block_size": null})").blocks, IsEmpty());
  EXPECT_TRUE(read(R"({"quant_method": "fp8", "scale_fmt": "ue8m0"})").present);
  EXPECT_TRUE(read(R"({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0})").present);
  EXPECT_TRUE(read(R"({"quant_method": "modelopt", "quant_algo": "FP8"})").present);
  const Fp8Config channel = read(scheme(R"({"type": "float", "num_bits": 8, "strategy": "channel"})"));
  EXPECT_TRUE(channel.present);
  EXPECT_EQ(channel.method, "compressed-tensors");
  EXPECT_THAT(channel.blocks, IsEmpty());
  EXPECT_THAT(
      read(scheme(R"({"type": "float", "num_bits": 8, "strategy": "block", "block_structure": [128, 128]})"))
          .blocks,
      ElementsAre(Fp8Block{128, 128}));
  EXPECT_THAT(
      read(scheme(R"({"type": "float", "num_bits": 8, "strategy": "group", "group_size": 64})")).blocks,
      ElementsAre(Fp8Block{1, 64}));
}

TEST(Fp8Config, UnknownFormsAreRefusedByName) {
  EXPECT_THAT(complaint(R"({"quant_method": "fp8", "fmt": "e5m2"})"),
              AllOf(HasSubstr("quantization_config.fmt"), HasSubstr("e4m3"), HasSubstr("e5m2")));
  EXPECT_THAT(complaint(R"({"quant_method": "fp8", "expert_dtype": "fp4"})"), HasSubstr("expert_dtype"));
  EXPECT_THAT(complaint(R"({"quant_method": "fp8", "scale_fmt": "log"})"), HasSubstr("scale_fmt"));
  for (const char* size : {"128", "[128]", "[128, 0]", "[128, \"128\"]"}) {
    EXPECT_THAT(complaint(std::string(R"({"quant_method": "fp8", "weight_block_size": )") + size + "}"),
                AllOf(HasSubstr("weight_block_size"), HasSubstr("two integers")));
  }
  EXPECT_THAT(complaint(R"({"quant_method": "modelopt", "quant_algo": "NVFP4"})"), HasSubstr("quant_algo"));
  EXPECT_THAT(complaint(R"({"quant_method": "compressed-tensors", "format": "pack-quantized"})"),
              AllOf(HasSubstr("format"), HasSubstr("float-quantized"), HasSubstr("unquantized model")));
  EXPECT_THAT(complaint(R"({"quant_method": "compressed-tensors"})"), HasSubstr("config_groups"));
  EXPECT_THAT(complaint(scheme(R"({"type": "int", "num_bits": 8})")),
              AllOf(HasSubstr("config_groups.group_0.weights.type"), HasSubstr("float")));
  EXPECT_THAT(complaint(scheme(R"({"type": "float", "num_bits": 4})")), HasSubstr("num_bits"));
  EXPECT_THAT(complaint(scheme(R"({"type": "float", "symmetric": false})")), HasSubstr("symmetric"));
  EXPECT_THAT(complaint(scheme(R"({"type": "float", "dynamic": true})")), HasSubstr("dynamic"));
  EXPECT_THAT(complaint(scheme(R"({"type": "float", "strategy": "token"})")), HasSubstr("strategy"));
  EXPECT_THAT(complaint(scheme(R"({"type": "float", "actorder": "group"})")), HasSubstr("actorder"));
  EXPECT_THAT(complaint(scheme(R"({"type": "float", "strategy": "block"})")), HasSubstr("block_structure"));
  EXPECT_THAT(complaint(scheme("null")), HasSubstr("weights"));
  EXPECT_THAT(
      complaint(scheme(R"({"type": "float"})", R"(, "sparsity_config": {"format": "sparse-24-bitmask"})")),
      HasSubstr("sparsity_config.format"));
  EXPECT_THAT(complaint(scheme(R"({"type": "float"})", R"(, "transform_config": {"config_groups": {}})")),
              HasSubstr("transform_config"));
}

}  // namespace
}  // namespace gptq
