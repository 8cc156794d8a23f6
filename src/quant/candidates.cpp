#include "quant/candidates.h"

#include "base/error.h"
#include "config/module_rules.h"

namespace gptq {

std::vector<QuantizationSection> candidates_of(const QuantizationSection& section) {
  std::vector<QuantizationSection> candidates{section};
  for (const std::string& text : section.best_of) {
    const std::string problem = settings_problem(text);
    if (!problem.empty()) throw UsageError("quantization.best_of: \"{}\": {}", text, problem);
    QuantizationSection candidate = with_settings(section, parse_settings(text));
    // It would take another order of columns, and with it another g_idx.
    if (candidate.desc_act != section.desc_act)
      throw UsageError("quantization.best_of: \"{}\" sets act_group_aware, which desc_act excludes", text);
    candidates.push_back(std::move(candidate));
  }
  return candidates;
}

}  // namespace gptq
