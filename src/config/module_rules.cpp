#include "config/module_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "base/error.h"
#include "config/consistency.h"
#include "config/nearest.h"

namespace gptq {
namespace {

constexpr std::string_view kSection = "quantization";

const Key* setting_key(const std::string& name) {
  return find_key(fmt::format("{}.{}", kSection, name));
}

std::string names_with(bool (*allowed)(Scope)) {
  std::string names;
  for (const Key& key : job_keys()) {
    if (key.section() == kSection && allowed(key.scope)) names += (names.empty() ? "" : ", ") + key.name();
  }
  return names;
}

bool holds_for_layers(Scope scope) {
  return scope != Scope::job;
}

bool holds_for_candidates(Scope scope) {
  return scope == Scope::candidate;
}

/// Why `name` is no setting of this kind; empty if it is.
std::string name_problem(const std::string& name, bool (*allowed)(Scope), std::string_view what) {
  const Key* key = setting_key(name);
  if (key == nullptr) return "unknown key" + suggest_key(std::string(kSection), name);
  if (allowed(key->scope)) return "";
  return fmt::format("cannot be given for {}; valid: {}", what, names_with(allowed));
}

/// Reads one rule of quantization.dynamic.
class RuleReader {
 public:
  RuleReader(const Key& key, const RawEntry& entry, std::vector<Mistake>& mistakes)
      : entry_(entry), mistakes_(mistakes), path_(fmt::format("{}.{}", key.path, shortened(entry.name))) {}

  /// False if something is wrong.
  bool read(ModuleRule& rule) {
    const std::size_t before = mistakes_.size();
    rule.pattern = entry_.name;
    check_pattern(rule);
    if (entry_.value.kind == RawValue::Kind::map) {
      for (const RawEntry& setting : entry_.value.entries) read_setting(setting, rule);
    } else if (entry_.value.kind != RawValue::Kind::none) {
      mistake(entry_.value.place, "must be a map of settings: {bits: 8, group_size: 32}");
    }
    if (rule.keeps() && !entry_.value.entries.empty()) {
      mistake(entry_.place, "a rule with -: keeps layers as they are and takes no settings; write {}");
    }
    return mistakes_.size() == before;
  }

 private:
  void mistake(const std::string& place, std::string what) {
    mistakes_.push_back({place, path_, std::move(what)});
  }

  void check_pattern(const ModuleRule& rule) {
    if (rule.regex().empty()) return mistake(entry_.place, "a rule needs a regex before its colon");
    const std::string problem = regex_problem(rule.regex());
    if (!problem.empty()) mistake(entry_.place, "is no ECMAScript regex: " + problem);
  }

  void read_setting(const RawEntry& setting, ModuleRule& rule) {
    const std::string path = fmt::format("{}.{}", path_, shortened(setting.name));
    const auto add = [&](const std::string& place, std::string what) {
      mistakes_.push_back({place, path, std::move(what)});
    };
    const std::string problem = name_problem(setting.name, holds_for_layers, "single layers");
    if (!problem.empty()) return add(setting.place, problem);
    if (!seen_.insert(setting.name).second) return add(setting.place, "is given twice; keep one");
    JobConfig job;
    std::vector<Mistake> mistakes;
    const Key& key = *setting_key(setting.name);
    set_value(key, setting.value, job, mistakes);
    for (Mistake& wrong : mistakes) add(wrong.place, std::move(wrong.what));
    if (mistakes.empty()) rule.values.emplace_back(setting.name, value_text(key, job));
  }

  const RawEntry& entry_;
  std::vector<Mistake>& mistakes_;
  std::string path_;
  std::set<std::string> seen_;
};

/// A value as it may stand after "key=".
RawValue as_typed(const std::string& text) {
  RawValue value;
  value.kind = RawValue::Kind::scalar;
  value.text = text;
  return value;
}

/// Stores one setting; what is wrong, or nothing.
std::string set_setting(const std::string& name, const std::string& text, JobConfig& job) {
  std::vector<Mistake> mistakes;
  set_value(*setting_key(name), as_typed(text), job, mistakes);
  return mistakes.empty() ? "" : mistakes.front().what;
}

std::vector<Conflict> apply(const Settings& settings, JobConfig& job) {
  for (const auto& [name, text] : settings) {
    if (setting_key(name) == nullptr) throw UsageError("quantization.{} is no key", name);
    const std::string problem = set_setting(name, text, job);
    if (!problem.empty()) throw UsageError("quantization.{}: {}", name, problem);
  }
  return make_consistent(job.quantization, [&](const std::string& name) {
    return std::any_of(settings.begin(), settings.end(),
                       [&](const auto& setting) { return setting.first == name; });
  });
}

}  // namespace

std::vector<ModuleRule> read_module_rules(const Key& key, const RawValue& map,
                                          std::vector<Mistake>& mistakes) {
  std::vector<ModuleRule> rules;
  std::set<std::string> patterns;
  for (const RawEntry& entry : map.entries) {
    if (!patterns.insert(entry.name).second) {
      mistakes.push_back({entry.place, fmt::format("{}.{}", key.path, shortened(entry.name)),
                          "is given twice; only the first rule that matches counts"});
    }
    ModuleRule rule;
    if (RuleReader(key, entry, mistakes).read(rule)) rules.push_back(std::move(rule));
  }
  return rules;
}

std::string settings_problem(const std::string& text) {
  std::istringstream words(text);
  std::set<std::string> seen;
  JobConfig job;
  for (std::string word; words >> word;) {
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos || equals == 0) {
      return fmt::format("'{}' must be key=value, as in \"scale_search=mse mse_norm=2.4\"", shortened(word));
    }
    const std::string name = word.substr(0, equals);
    std::string problem = name_problem(name, holds_for_candidates, "a candidate");
    if (problem.empty() && !seen.insert(name).second) problem = "is given twice; keep one";
    if (problem.empty()) problem = set_setting(name, word.substr(equals + 1), job);
    if (!problem.empty()) return fmt::format("'{}': {}", shortened(name), problem);
  }
  return seen.empty() ? "holds no setting; write \"key=value key=value\"" : "";
}

Settings parse_settings(const std::string& text) {
  std::istringstream words(text);
  Settings settings;
  for (std::string word; words >> word;) {
    const std::size_t equals = word.find('=');
    GPTQ_EXPECT(equals != std::string::npos);
    settings.emplace_back(word.substr(0, equals), word.substr(equals + 1));
  }
  return settings;
}

QuantizationSection with_settings(const QuantizationSection& section, const Settings& settings) {
  JobConfig job;
  job.quantization = section;
  for (const Conflict& conflict : apply(settings, job)) {
    throw UsageError("quantization.{}: {}", conflict.key, conflict.message(""));
  }
  return job.quantization;
}

std::vector<Conflict> conflicts_of(const QuantizationSection& section, const Settings& settings) {
  JobConfig job;
  job.quantization = section;
  return apply(settings, job);
}

}  // namespace gptq
