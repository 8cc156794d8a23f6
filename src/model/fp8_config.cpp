#include "model/fp8_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "model/json_fields.h"

namespace gptq {
namespace {

constexpr std::array<std::string_view, 4> kMethods = {"fp8", "compressed-tensors", "fbgemm_fp8", "modelopt"};

constexpr std::int64_t kMostRows = std::int64_t{1} << 31;  // or columns, of a block: far from overflow

constexpr const char* kStartOver = "; start from the unquantized model";

/// The text of a key must be one of these; absent counts as the first.
void expect_text(const JsonFields& fields, const std::string& key, const std::vector<std::string>& known) {
  const std::string text = fields.text(key, known.front());
  if (std::find(known.begin(), known.end(), text) != known.end()) return;
  fields.reject(key, fmt::format("must be {}{}", fmt::join(known, " or "), kStartOver));
}

/// [128, 128].
Fp8Block read_block_size(const JsonFields& fields, const std::string& key) {
  const nlohmann::ordered_json& pair = fields.raw(key);
  const auto is_size = [](const nlohmann::ordered_json& value) {
    return value.is_number_integer() && value.get<std::int64_t>() > 0 &&
           value.get<std::int64_t>() <= kMostRows;
  };
  if (!pair.is_array() || pair.size() != 2 || !is_size(pair[0]) || !is_size(pair[1]))
    fields.reject(key, "must be two integers >= 1: rows and columns that share a scale");
  return {pair[0].get<std::int64_t>(), pair[1].get<std::int64_t>()};
}

void add_block(Fp8Config& config, Fp8Block block) {
  if (std::find(config.blocks.begin(), config.blocks.end(), block) == config.blocks.end())
    config.blocks.push_back(block);
}

/// DeepSeek's form. Where weight_block_size is absent transformers takes 128 × 128, and null means one scale
/// a weight.
void read_fp8(const JsonFields& fields, Fp8Config& config) {
  expect_text(fields, "fmt", {"e4m3", "float8_e4m3fn"});
  expect_text(fields, "scale_fmt", {"float", "ue8m0"});
  expect_text(fields, "expert_dtype", {"fp8"});
  if (fields.is_null("weight_block_size")) return;
  add_block(config, fields.has("weight_block_size") ? read_block_size(fields, "weight_block_size")
                                                    : Fp8Block{128, 128});
}

/// What compressed-tensors calls a scheme's weights.
void read_weights(const JsonFields& weights, Fp8Config& config) {
  if (weights.text("type", "int") != "float")
    weights.reject("type", fmt::format("must be float{}", kStartOver));
  if (weights.integer("num_bits", 8) != 8) weights.reject("num_bits", fmt::format("must be 8{}", kStartOver));
  if (!weights.boolean("symmetric", true))
    weights.reject("symmetric", fmt::format("must be true{}", kStartOver));
  if (weights.has("dynamic") && weights.raw("dynamic") != false)
    weights.reject("dynamic", fmt::format("must be false{}", kStartOver));
  if (weights.has("actorder")) weights.reject("actorder", fmt::format("must be null{}", kStartOver));
  expect_text(weights, "strategy", {"tensor", "channel", "block", "group"});
  const std::string strategy = weights.text("strategy", "tensor");
  if (strategy == "block") add_block(config, read_block_size(weights, "block_structure"));
  if (strategy == "group") add_block(config, {1, std::min(kMostRows, weights.positive("group_size"))});
}

void read_compressed_tensors(const JsonFields& fields, Fp8Config& config) {
  // Old checkpoints say naive-quantized for the same thing.
  const std::vector<std::string> formats{"float-quantized", "naive-quantized"};
  const auto check_format = [&](const JsonFields& object) {
    if (object.has("format") && object.text("format", "") != "mixed-precision")
      expect_text(object, "format", formats);
  };
  check_format(fields);
  const JsonFields sparsity = fields.child("sparsity_config");
  expect_text(sparsity, "format", {"dense"});
  if (fields.has("transform_config") && !fields.raw("transform_config").empty()) {
    fields.reject("transform_config",
                  fmt::format("must be empty: the weights are those of a transformed model{}", kStartOver));
  }
  const nlohmann::ordered_json& groups = fields.raw("config_groups");
  if (!groups.is_object() || groups.empty()) fields.reject("config_groups", "must be an object of schemes");
  for (const auto& [name, group] : groups.items()) {
    const JsonFields scheme = fields.part(group, fmt::format("config_groups.{}.", name));
    check_format(scheme);
    if (!scheme.has("weights")) scheme.reject("weights", "is required: this program reads fp8 weights");
    read_weights(scheme.child("weights"), config);
  }
}

}  // namespace

bool is_fp8_method(const std::string& method) {
  return std::find(kMethods.begin(), kMethods.end(), method) != kMethods.end();
}

std::string fp8_methods() {
  return fmt::format("{}", fmt::join(kMethods, ", "));
}

Fp8Config read_fp8_config(const JsonFields& fields) {
  Fp8Config config;
  if (!fields.has("quantization_config")) return config;
  const JsonFields quantized = fields.child("quantization_config");
  config.method = quantized.text("quant_method", "gptq");
  config.present = is_fp8_method(config.method);
  if (config.method == "fp8") read_fp8(quantized, config);
  if (config.method == "compressed-tensors") read_compressed_tensors(quantized, config);
  if (config.method == "modelopt") expect_text(quantized, "quant_algo", {"FP8"});
  return config;
}

}  // namespace gptq
