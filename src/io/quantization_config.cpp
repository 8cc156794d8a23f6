#include "io/quantization_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

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

/// What the output says of a module: how it is stored, or that it stays as it is.
struct Statement {
  bool kept = false;
  QuantizedForm form;

  bool operator==(const Statement&) const = default;
  auto key() const { return std::tuple(!kept, form.bits, form.group_size, form.sym, form.desc_act); }
  bool operator<(const Statement& other) const { return key() < other.key(); }
};

/// Of every block by the names inside it.
using Statements = std::vector<std::map<std::string, Statement>>;

Statement statement_of(const Recipe& recipe, const std::string& module) {
  if (!recipe.selects(module)) return {true, {}};
  return {false, stored_form(recipe.section_of(module))};
}

Statements statements_of(const ModelWeights& model, const Recipe& recipe) {
  Statements statements;
  for (std::int64_t block = 0; block < model.config().num_hidden_layers; ++block) {
    auto& of_block = statements.emplace_back();
    for (const LinearShape& layer : model.layout(block).layers())
      of_block[layer.name] = statement_of(recipe, block_prefix(model.architecture(), block) + layer.name);
  }
  return statements;
}

/// Adds the name under which vLLM knows several modules as one, where it can: all are stored alike.
void add_joined(const JoinedModules& joined, Statements& statements) {
  for (auto& of_block : statements) {
    const Statement& first = of_block.at(joined.parts.front());
    const bool alike = std::all_of(joined.parts.begin(), joined.parts.end(),
                                   [&](const std::string& part) { return of_block.at(part) == first; });
    if (alike) of_block[joined.name] = first;
  }
}

/// The regex of a name in these blocks.
std::string name_in_blocks(const ModelWeights& model, const std::string& name,
                           const std::set<std::int64_t>& blocks) {
  const std::string prefix(model.architecture().block_prefix);
  const std::size_t number = prefix.find("{}");
  const bool everywhere = blocks.size() == static_cast<std::size_t>(model.config().num_hidden_layers);
  const std::string which = everywhere ? "\\d+" : fmt::format("(?:{})", fmt::join(blocks, "|"));
  return "^" + escaped(prefix.substr(0, number)) + which + escaped(prefix.substr(number + 2)) +
         escaped(name) + "$";
}

/// What of a form is not what holds for all.
ordered_json exceptions(const QuantizedForm& form, const QuantizedForm& base) {
  ordered_json json = ordered_json::object();
  if (form.bits != base.bits) json["bits"] = form.bits;
  if (form.group_size != base.group_size) json["group_size"] = form.group_size;
  if (form.sym != base.sym) json["sym"] = form.sym;
  if (form.desc_act != base.desc_act) json["desc_act"] = form.desc_act;
  return json;
}

/// [["self_attn.q_proj", …], ["self_attn.o_proj"], …]: names that are quantized in at least one block.
ordered_json quantized_names(const ModelWeights& model, const Statements& statements) {
  ordered_json names = ordered_json::array();
  for (const BlockStep& step : model.layout(0).steps) {
    for (const StageGroup& group : step.groups) {
      ordered_json of_group = ordered_json::array();
      for (const LinearShape& layer : group.layers) {
        const bool somewhere = std::any_of(statements.begin(), statements.end(), [&](const auto& of_block) {
          return !of_block.at(layer.name).kept;
        });
        if (somewhere) of_group.push_back(layer.name);
      }
      if (!of_group.empty()) names.push_back(of_group);
    }
  }
  return names;
}

/// OneComp's list: of every block the modules that are quantized.
ordered_json quantization_bits(const Statements& statements) {
  ordered_json blocks = ordered_json::array();
  for (const auto& of_block : statements) {
    ordered_json& block = blocks.emplace_back(ordered_json::object());
    for (const auto& [name, statement] : of_block) {
      if (statement.kept) continue;
      block[name] = {{"bits", statement.form.bits},
                     {"method", "gptq"},
                     {"params", {{"group_size", statement.form.group_size}}}};
    }
  }
  return blocks;
}

ordered_json meta(const QuantizationSection& q) {
  const bool gptq = q.method == "gptq";
  ordered_json json = {{"quantizer", ordered_json::array({"gptq-hpc:" + version()})},
                       {"method", q.method},
                       {"damp_percent", q.damp_percent},
                       {"damp_auto_increment", q.damp_auto_increment},
                       {"true_sequential", q.true_sequential},
                       {"static_groups", q.static_groups},
                       {"act_group_aware", gptq && q.act_group_aware && !q.desc_act},
                       {"scale_search", q.scale_search},
                       {"rotation", q.rotation},
                       {"mse", q.scale_search == "minmax" ? 0.0 : q.mse_norm}};
  if (q.trits) json["trits"] = true;
  if (!q.per_channel) json["per_channel"] = false;
  return json;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> dynamic_rules(const ModelWeights& model,
                                                               const Recipe& recipe) {
  const QuantizedForm base = stored_form(recipe.section());
  Statements statements = statements_of(model, recipe);
  for (const JoinedModules& joined : joined_modules(model.architecture())) add_joined(joined, statements);
  std::map<std::pair<Statement, std::string>, std::set<std::int64_t>> blocks_of;
  for (std::size_t block = 0; block < statements.size(); ++block) {
    for (const auto& [name, statement] : statements[block]) {
      if (statement == Statement{false, base}) continue;
      blocks_of[{statement, name}].insert(static_cast<std::int64_t>(block));
    }
  }
  std::vector<std::pair<std::string, std::string>> rules;
  for (const auto& [key, blocks] : blocks_of) {
    const auto& [statement, name] = key;
    const ordered_json values = statement.kept ? ordered_json::object() : exceptions(statement.form, base);
    rules.emplace_back((statement.kept ? "-:" : "+:") + name_in_blocks(model, name, blocks), values.dump());
  }
  const std::string head(model.architecture().head);
  if (recipe.quantizes_head(head)) {
    const ordered_json values = exceptions(stored_form(recipe.section_of(head)), base);
    if (!values.empty()) rules.emplace_back("+:^" + escaped(head) + "$", values.dump());
  }
  return rules;
}

std::string quantize_config_json(const JobConfig& job, const ModelWeights& model, const Recipe& recipe) {
  const QuantizationSection& q = recipe.section();
  const QuantizedForm base = stored_form(q);
  const Statements statements = statements_of(model, recipe);
  const bool mixed = job.output.quantization_config == "mixed_gptq";
  ordered_json config;
  config["bits"] = base.bits;
  config["group_size"] = base.group_size;
  config["desc_act"] = base.desc_act;
  config["sym"] = base.sym;
  config["lm_head"] = recipe.quantizes_head(std::string(model.architecture().head));
  config["quant_method"] = mixed ? "mixed_gptq" : "gptq";
  config["checkpoint_format"] = job.output.checkpoint_format;
  config["pack_dtype"] = "int32";
  config["damp_percent"] = q.damp_percent;
  config["true_sequential"] = q.true_sequential;
  config["static_groups"] = q.static_groups;
  if (mixed) {
    config["groupsize"] = base.group_size;
    config["actorder"] = base.desc_act;
    config["quantization_bits"] = quantization_bits(statements);
  } else {
    for (const auto& [rule, values] : dynamic_rules(model, recipe))
      config["dynamic"][rule] = ordered_json::parse(values);
  }
  config["modules_in_block_to_quantize"] = quantized_names(model, statements);
  config["meta"] = meta(q);
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
