#include "quant/recipe.h"

#include <algorithm>
#include <regex>
#include <tuple>

#include "base/error.h"
#include "config/module_rules.h"
#include "quant/candidates.h"

namespace gptq {
namespace {

std::regex compile(const std::string& text, const char* list) {
  try {
    return std::regex(text, std::regex::ECMAScript);
  } catch (const std::regex_error& error) {
    throw UsageError(
        "quantization.{}: '{}' is neither a module name nor a valid regular expression ({}); "
        "escape special characters with a backslash",
        list, text, error.what());
  }
}

/// The number of the block that a module lies in; -1: it lies in none.
std::int64_t block_of(const std::string& module) {
  static const std::regex index("\\.([0-9]{1,9})\\.");
  std::smatch match;
  return std::regex_search(module, match, index) ? std::stoll(match[1].str()) : -1;
}

/// `name` has a part `part` between its dots.
bool has_part(const std::string& name, const std::string& part) {
  return ("." + name + ".").find("." + part + ".") != std::string::npos;
}

/// `name` is `whole`, or its last parts.
bool ends_with_parts(const std::string& whole, const std::string& name) {
  return whole == name || whole.ends_with("." + name);
}

}  // namespace

struct Recipe::Pattern {
  std::string text;
  std::regex regex;

  bool matches(const std::string& module) const {
    return text == module || text == name_inside_block(module) || std::regex_search(module, regex);
  }
};

struct Recipe::Rule {
  std::regex regex;
  bool keeps = false;
  Settings values;

  bool matches(const std::string& module) const {
    return std::regex_search(module, regex, std::regex_constants::match_continuous);
  }
};

Recipe::Recipe(const QuantizationSection& section) : section_(section) {
  for (const std::string& text : section_.include) include_.push_back({text, compile(text, "include")});
  for (const std::string& text : section_.exclude) exclude_.push_back({text, compile(text, "exclude")});
  for (const std::string& text : section_.correction_layers)
    corrected_.push_back({text, compile(text, "correction_layers")});
  for (const ModuleRule& rule : section_.dynamic)
    dynamic_.push_back({compile(rule.regex(), "dynamic"), rule.keeps(), rule.values});
  candidates_of(section_);
}

Recipe::~Recipe() = default;
Recipe::Recipe(Recipe&&) noexcept = default;

const Recipe::Rule* Recipe::rule_of(const std::string& module) const {
  const auto found =
      std::find_if(dynamic_.begin(), dynamic_.end(), [&](const Rule& rule) { return rule.matches(module); });
  return found == dynamic_.end() ? nullptr : &*found;
}

bool Recipe::is_kept(const std::string& module) const {
  const Rule* rule = rule_of(module);
  return (rule != nullptr && rule->keeps) ||
         std::any_of(exclude_.begin(), exclude_.end(), [&](const Pattern& p) { return p.matches(module); });
}

bool Recipe::selects(const std::string& module) const {
  const auto& names = section_.modules_in_block_to_quantize;
  const bool included = include_.empty() || std::any_of(include_.begin(), include_.end(),
                                                        [&](const Pattern& p) { return p.matches(module); });
  const bool named =
      names.empty() || std::find(names.begin(), names.end(), name_inside_block(module)) != names.end();
  const bool in_time = section_.num_layers == 0 || block_of(module) < section_.num_layers;
  return included && named && in_time && !is_kept(module);
}

bool Recipe::quantizes_head(const std::string& head) const {
  return section_.lm_head && !is_kept(head);
}

bool Recipe::corrects(const std::string& module) const {
  if (section_.correction_alpha == 0) return false;
  const auto matches = [&](const Pattern& pattern) { return pattern.matches(module); };
  return corrected_.empty() || std::any_of(corrected_.begin(), corrected_.end(), matches);
}

QuantizationSection Recipe::section_of(const std::string& module) const {
  QuantizationSection result = section_;
  if (has_part(module, "mlp")) {
    if (section_.mlp_bits != 0) result = with_settings(result, {{"bits", std::to_string(section_.mlp_bits)}});
    if (section_.mlp_group_size != 0)
      result = with_settings(result, {{"group_size", std::to_string(section_.mlp_group_size)}});
  }
  if (const std::string* name = name_in_module_bits(section_, module))
    result = with_settings(result, {{"bits", std::to_string(section_.module_bits.at(*name))}});
  if (const Rule* rule = rule_of(module)) result = with_settings(result, rule->values);
  return result;
}

std::string name_inside_block(const std::string& module) {
  static const std::regex index("\\.[0-9]+\\.");
  std::smatch match;
  return std::regex_search(module, match, index) ? match.suffix().str() : module;
}

const std::string* name_in_module_bits(const QuantizationSection& section, const std::string& module) {
  const std::string* longest = nullptr;
  for (const auto& [name, bits] : section.module_bits) {
    if (!ends_with_parts(module, name)) continue;
    if (longest == nullptr || name.size() > longest->size()) longest = &name;
  }
  return longest;
}

SolveOptions solve_options(const QuantizationSection& section) {
  SolveOptions options;
  options.bits = section.bits;
  options.trits = section.trits;
  options.sym = section.sym;
  if (section.scale_search == "minmax") {
    options.search = SolveOptions::Search::minmax;
  } else if (section.scale_search == "mse") {
    options.search = SolveOptions::Search::mse;
  } else {
    GPTQ_EXPECT(section.scale_search == "weighted");
    options.search = SolveOptions::Search::weighted;
  }
  options.norm = section.mse_norm;
  options.grid = section.mse_grid;
  options.max_shrink = section.max_shrink;
  options.refit_every_group = !section.static_groups;
  return options;
}

bool same_columns(const QuantizationSection& a, const QuantizationSection& b) {
  const auto signature = [](const QuantizationSection& section) {
    return std::tie(section.group_size, section.desc_act, section.act_group_aware, section.static_groups,
                    section.damp_percent, section.damp_auto_increment);
  };
  return signature(a) == signature(b);
}

}  // namespace gptq
