#include "quant/recipe.h"

#include <algorithm>
#include <regex>
#include <tuple>

#include "base/error.h"

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

/// "model.layers.3.mlp.down_proj" → "mlp.down_proj": what follows the first purely numeric component.
std::string name_inside_block(const std::string& module) {
  static const std::regex index("\\.[0-9]+\\.");
  std::smatch match;
  return std::regex_search(module, match, index) ? match.suffix().str() : module;
}

}  // namespace

struct Recipe::Pattern {
  std::string text;
  std::regex regex;

  bool matches(const std::string& module) const {
    return text == module || text == name_inside_block(module) || std::regex_search(module, regex);
  }
};

Recipe::Recipe(const QuantizationSection& section) : section_(section) {
  for (const std::string& text : section_.include) include_.push_back({text, compile(text, "include")});
  for (const std::string& text : section_.exclude) exclude_.push_back({text, compile(text, "exclude")});
}

Recipe::~Recipe() = default;
Recipe::Recipe(Recipe&&) noexcept = default;

bool Recipe::selects(const std::string& module) const {
  const auto matches = [&](const Pattern& pattern) { return pattern.matches(module); };
  const bool included = include_.empty() || std::any_of(include_.begin(), include_.end(), matches);
  return included && std::none_of(exclude_.begin(), exclude_.end(), matches);
}

QuantizationSection Recipe::section_of(const std::string&) const {
  return section_;
}

SolveOptions solve_options(const QuantizationSection& section) {
  SolveOptions options;
  options.bits = section.bits;
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
