#include "model/quantized_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <regex>
#include <set>

#include "model/fp8_config.h"
#include "model/json_fields.h"

namespace gptq {
namespace {

int read_bits(const JsonFields& fields, int otherwise) {
  const std::int64_t bits = fields.integer("bits", otherwise);
  if (bits < 2 || bits > 8) fields.reject("bits", "must be 2 to 8");
  return static_cast<int>(bits);
}

std::int64_t read_group_size(const JsonFields& fields, const std::string& key, std::int64_t otherwise) {
  const std::int64_t size = fields.integer(key, otherwise);
  if (size != -1 && size < 1) fields.reject(key, "must be -1 or >= 1");
  return size;
}

/// The values that `fields` gives, the others from `base`.
QuantizedForm read_form(const JsonFields& fields, const QuantizedForm& base) {
  QuantizedForm form = base;
  form.bits = read_bits(fields, base.bits);
  form.group_size = read_group_size(fields, "group_size", base.group_size);
  form.sym = fields.boolean("sym", base.sym);
  form.desc_act = fields.boolean("desc_act", base.desc_act);
  return form;
}

/// "model.layers.3.mlp.down_proj" → 3 and "mlp.down_proj".
std::optional<std::pair<std::size_t, std::string>> place_in_block(const std::string& module) {
  static const std::regex pattern("\\.([0-9]{1,9})\\.(.*)");
  std::smatch match;
  if (!std::regex_search(module, match, pattern)) return std::nullopt;
  return std::pair{static_cast<std::size_t>(std::stoul(match[1].str())), match[2].str()};
}

}  // namespace

class QuantizedRules {
 public:
  struct Rule {
    std::regex regex;
    bool skips = false;
    QuantizedForm form;
  };

  /// The first rule that matches from the name's start, as Python's re.match does; null if none does.
  const Rule* rule_of(const std::string& module) const {
    const auto found = std::find_if(rules_.begin(), rules_.end(), [&](const Rule& rule) {
      return std::regex_search(module, rule.regex, std::regex_constants::match_continuous);
    });
    return found == rules_.end() ? nullptr : &*found;
  }

  void add(Rule rule) { rules_.push_back(std::move(rule)); }
  const std::vector<Rule>& all() const { return rules_; }

 private:
  std::vector<Rule> rules_;
};

namespace {

std::shared_ptr<const QuantizedRules> read_rules(const JsonFields& quantized, const QuantizedForm& base) {
  auto rules = std::make_shared<QuantizedRules>();
  if (!quantized.has("dynamic")) return rules;
  const nlohmann::ordered_json& dynamic = quantized.raw("dynamic");
  if (!dynamic.is_object()) quantized.reject("dynamic", "must be an object of rules");
  for (const auto& [text, values] : dynamic.items()) {
    QuantizedRules::Rule rule;
    rule.skips = text.starts_with("-:");
    try {
      rule.regex = std::regex(rule.skips || text.starts_with("+:") ? text.substr(2) : text);
    } catch (const std::regex_error& error) {
      quantized.reject("dynamic", fmt::format("has the rule '{}', which is no regular expression that this "
                                              "program knows: {}",
                                              text, error.what()));
    }
    rule.form = base;
    if (!rule.skips) rule.form = read_form(quantized.part(values, fmt::format("dynamic['{}'].", text)), base);
    rules->add(std::move(rule));
  }
  return rules;
}

/// {"bits": 4, "method": "gptq", "params": {"group_size": 128}}, or group_size beside bits.
QuantizedForm read_listed(const JsonFields& module, const QuantizedForm& base) {
  if (module.text("method", "gptq") != "gptq") module.reject("method", "must be gptq");
  const JsonFields params = module.child("params");
  QuantizedForm form = base;
  form.bits = read_bits(module, base.bits);
  form.group_size =
      read_group_size(module, "group_size", read_group_size(params, "group_size", base.group_size));
  return form;
}

std::vector<QuantizedConfig::ListedForms> read_blocks(const JsonFields& quantized,
                                                      const QuantizedForm& base) {
  const nlohmann::ordered_json& list = quantized.raw("quantization_bits");
  if (!list.is_array() || list.empty()) {
    quantized.reject("quantization_bits", "must list every block's modules where quant_method is mixed_gptq");
  }
  std::vector<QuantizedConfig::ListedForms> blocks;
  for (const nlohmann::ordered_json& block : list) {
    if (!block.is_object()) quantized.reject("quantization_bits", "must hold an object for every block");
    auto& forms = blocks.emplace_back();
    for (const auto& [name, module] : block.items()) {
      if (!module.is_object())
        quantized.reject("quantization_bits", fmt::format("has no object for '{}'", name));
      const std::string path = fmt::format("quantization_bits[{}].{}.", blocks.size() - 1, name);
      forms.emplace_back(name, read_listed(quantized.part(module, path), base));
    }
  }
  return blocks;
}

/// Null if the list does not name the module.
const QuantizedForm* listed_form(const std::vector<QuantizedConfig::ListedForms>& blocks,
                                 const std::string& module) {
  const auto place = place_in_block(module);
  if (!place || place->first >= blocks.size()) return nullptr;
  for (const auto& [name, form] : blocks[place->first]) {
    if (name == "_all" || place->second.starts_with(name)) return &form;
  }
  return nullptr;
}

}  // namespace

QuantizedForm stored_form(const QuantizationSection& section) {
  return {section.bits, section.group_size, section.sym && !section.trits, section.desc_act};
}

QuantizedForm QuantizedConfig::form_of(const std::string& module) const {
  if (mixed) {
    const QuantizedForm* form = listed_form(of_block, module);
    return form == nullptr ? *this : *form;
  }
  const QuantizedRules::Rule* rule = rules == nullptr ? nullptr : rules->rule_of(module);
  return rule == nullptr ? *this : rule->form;
}

bool QuantizedConfig::skips(const std::string& module) const {
  if (mixed) return place_in_block(module) && listed_form(of_block, module) == nullptr;
  const QuantizedRules::Rule* rule = rules == nullptr ? nullptr : rules->rule_of(module);
  return rule != nullptr && rule->skips;
}

std::set<int> QuantizedConfig::all_bits() const {
  std::set<int> all{bits};
  for (const auto& block : of_block) {
    for (const auto& [name, form] : block) all.insert(form.bits);
  }
  if (rules == nullptr) return all;
  for (const QuantizedRules::Rule& rule : rules->all()) all.insert(rule.form.bits);
  return all;
}

QuantizedConfig read_quantized_config(const JsonFields& fields) {
  QuantizedConfig result;
  if (!fields.has("quantization_config")) return result;
  const JsonFields quantized = fields.child("quantization_config");
  const std::string method = quantized.text("quant_method", "gptq");
  if (is_fp8_method(method)) return result;
  if (method != "gptq" && method != "mixed_gptq") {
    quantized.reject("quant_method",
                     fmt::format("must be gptq or mixed_gptq, or one of fp8 weights ({}); start from the "
                                 "unquantized model",
                                 fp8_methods()));
  }
  result.present = true;
  const auto format = find_checkpoint_format(quantized.text("checkpoint_format", "gptq"));
  if (!format) quantized.reject("checkpoint_format", "must be gptq, gptq_v2 or gptq_p");
  result.format = *format;
  static_cast<QuantizedForm&>(result) = read_form(quantized, QuantizedForm());
  if (quantized.text("pack_dtype", "int32") != "int32") quantized.reject("pack_dtype", "must be int32");
  result.lm_head = quantized.boolean("lm_head", false);
  result.trits = quantized.child("meta").boolean("trits", false);
  result.mixed = method == "mixed_gptq";
  if (result.mixed) {
    result.of_block = read_blocks(quantized, result);
  } else {
    result.rules = read_rules(quantized, result);
  }
  for (const int bits : result.all_bits()) {
    if (can_hold(result.format, bits)) continue;
    quantized.reject(
        "checkpoint_format",
        fmt::format("must be gptq_p where modules have {} bits: no other has a form for them", bits));
  }
  return result;
}

}  // namespace gptq
