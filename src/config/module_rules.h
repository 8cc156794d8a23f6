#pragma once

#include <string>
#include <utility>
#include <vector>

#include "config/consistency.h"
#include "config/key_value.h"

namespace gptq {

/// Keys of the quantization section with their values as YAML: what holds for one layer or one candidate.
using Settings = std::vector<std::pair<std::string, std::string>>;

/// The rules of quantization.dynamic; those with something wrong are left out, and told in `mistakes`.
std::vector<ModuleRule> read_module_rules(const Key& key, const RawValue& map,
                                          std::vector<Mistake>& mistakes);

/// Why `text` is no "key=value key=value" for a candidate of best_of; empty if it is one.
std::string settings_problem(const std::string& text);
/// Of a text without problems.
Settings parse_settings(const std::string& text);

/// The section with these values in place of its own. A key that an overriding value excludes takes the
/// value that goes with it (config/consistency.h). Throws UsageError for values that are not allowed or
/// exclude each other.
QuantizationSection with_settings(const QuantizationSection& section, const Settings& settings);

/// What in these values excludes each other, or the section's own way.
std::vector<Conflict> conflicts_of(const QuantizationSection& section, const Settings& settings);

}  // namespace gptq
