#include "io/quantization_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "config/version.h"

namespace gptq {
namespace {

using nlohmann::ordered_json;

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (std::string_view("\\^$.|?*+()[]{}").find(c) != std::string_view::npos) result += '\\';
    result += c;
  }
  return result;
}

/// Blocks where a module stays unquantized, by the module's name inside the block.
using SkippedBlocks = std::map<std::string, std::set<std::int64_t>>;

SkippedBlocks skipped_blocks(const ModelWeights& model, const Recipe& recipe) {
  SkippedBlocks skipped;
  for (std::int64_t block = 0; block < model.config().num_hidden_layers; ++block) {
    for (const StageGroup& group : model.groups()) {
      for (const LinearShape& layer : group.layers) {
        if (!recipe.selects(block_prefix(model.architecture(), block) + layer.name))
          skipped[layer.name].insert(block);
      }
    }
  }
  return skipped;
}

/// Adds the name under which vLLM knows several modules as one, for the blocks where none of them is
/// quantized.
void add_fused(SkippedBlocks& skipped, const std::vector<std::string>& parts, const std::string& fused) {
  std::set<std::int64_t> common = skipped.contains(parts[0]) ? skipped[parts[0]] : std::set<std::int64_t>{};
  for (const std::string& part : parts) {
    const auto found = skipped.find(part);
    std::erase_if(common,
                  [&](std::int64_t b) { return found == skipped.end() || !found->second.contains(b); });
  }
  if (common.empty()) return;
  const std::size_t dot = parts[0].rfind('.');
  skipped[(dot == std::string::npos ? "" : parts[0].substr(0, dot + 1)) + fused] = common;
}

/// [["self_attn.q_proj", …], ["self_attn.o_proj"], …]: names that are quantized in at least one block.
ordered_json quantized_names(const ModelWeights& model, const SkippedBlocks& skipped) {
  ordered_json names = ordered_json::array();
  const auto blocks = static_cast<std::size_t>(model.config().num_hidden_layers);
  for (const StageGroup& group : model.groups()) {
    ordered_json of_group = ordered_json::array();
    for (const LinearShape& layer : group.layers) {
      const auto found = skipped.find(layer.name);
      if (found == skipped.end() || found->second.size() < blocks) of_group.push_back(layer.name);
    }
    if (!of_group.empty()) names.push_back(of_group);
  }
  return names;
}

}  // namespace

std::vector<std::string> skip_rules(const ModelWeights& model, const Recipe& recipe) {
  const Architecture& names = model.architecture();
  SkippedBlocks skipped = skipped_blocks(model, recipe);
  add_fused(skipped, {std::string(names.q), std::string(names.k), std::string(names.v)}, "qkv_proj");
  add_fused(skipped, {std::string(names.gate), std::string(names.up)}, "gate_up_proj");

  const std::string prefix(names.block_prefix);
  const std::size_t number = prefix.find("{}");
  std::vector<std::string> rules;
  for (const auto& [name, blocks] : skipped) {
    const bool everywhere = blocks.size() == static_cast<std::size_t>(model.config().num_hidden_layers);
    const std::string which = everywhere ? "\\d+" : fmt::format("(?:{})", fmt::join(blocks, "|"));
    rules.push_back("-:^" + escaped(prefix.substr(0, number)) + which + escaped(prefix.substr(number + 2)) +
                    escaped(name) + "$");
  }
  return rules;
}

std::string quantize_config_json(const JobConfig& job, const ModelWeights& model, const Recipe& recipe) {
  const QuantizationSection& q = recipe.section();
  ordered_json config;
  config["bits"] = q.bits;
  config["group_size"] = q.group_size;
  config["desc_act"] = q.desc_act;
  config["sym"] = q.sym;
  config["lm_head"] = false;
  config["quant_method"] = "gptq";
  config["checkpoint_format"] = job.output.checkpoint_format;
  config["pack_dtype"] = "int32";
  config["damp_percent"] = q.damp_percent;
  config["true_sequential"] = q.true_sequential;
  config["static_groups"] = q.static_groups;
  for (const std::string& rule : skip_rules(model, recipe)) config["dynamic"][rule] = ordered_json::object();
  config["modules_in_block_to_quantize"] = quantized_names(model, skipped_blocks(model, recipe));
  const bool gptq = q.method == "gptq";
  config["meta"] = {{"quantizer", ordered_json::array({"gptq-hpc:" + version()})},
                    {"method", q.method},
                    {"damp_percent", q.damp_percent},
                    {"damp_auto_increment", q.damp_auto_increment},
                    {"true_sequential", q.true_sequential},
                    {"static_groups", q.static_groups},
                    {"act_group_aware", gptq && q.act_group_aware && !q.desc_act},
                    {"scale_search", q.scale_search},
                    {"rotation", q.rotation},
                    {"mse", q.scale_search == "minmax" ? 0.0 : q.mse_norm}};
  return config.dump(2) + "\n";
}

std::string output_config_json(const std::string& source_config, const ModelWeights& model,
                               const std::string& quantize_config) {
  try {
    ordered_json config = ordered_json::parse(source_config);
    if (model.rotation() != nullptr) config["tie_word_embeddings"] = model.config().tie_word_embeddings;
    if (!quantize_config.empty()) config["quantization_config"] = ordered_json::parse(quantize_config);
    return config.dump(2) + "\n";
  } catch (const nlohmann::json::exception& error) {
    throw InputError("the source model's config.json is no valid JSON object: {}", error.what());
  }
}

}  // namespace gptq
