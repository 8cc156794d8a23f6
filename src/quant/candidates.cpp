#include "quant/candidates.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <sstream>
#include <string>

#include "base/error.h"
#include "config/key_value.h"

namespace gptq {
namespace {

constexpr std::array kKeys = {"scale_search", "mse_norm",        "mse_grid",      "max_shrink",
                              "damp_percent", "act_group_aware", "refine_sweeps", "refine_scales"};

/// "key=value" into the section of `job`.
void apply(const std::string& setting, const std::string& text, JobConfig& job) {
  const std::size_t equals = setting.find('=');
  const std::string name = setting.substr(0, equals);
  if (equals == std::string::npos || std::find(kKeys.begin(), kKeys.end(), name) == kKeys.end()) {
    throw UsageError(
        "quantization.best_of: '{}' of \"{}\" is no setting that a candidate may have; write KEY=VALUE with "
        "KEY one of {}",
        setting, text, fmt::join(kKeys, ", "));
  }
  RawValue value;
  value.kind = RawValue::Kind::scalar;
  value.text = setting.substr(equals + 1);
  value.place = "quantization.best_of";
  std::vector<Mistake> mistakes;
  set_value(*find_key("quantization." + name), value, job, mistakes);
  if (!mistakes.empty()) throw UsageError("{}", mistakes.front().line());
}

}  // namespace

std::vector<QuantizationSection> candidates_of(const QuantizationSection& section) {
  std::vector<QuantizationSection> candidates{section};
  for (const std::string& text : section.best_of) {
    JobConfig job;
    job.quantization = section;
    std::istringstream settings(text);
    for (std::string setting; settings >> setting;) apply(setting, text, job);
    if (job.quantization.desc_act && job.quantization.act_group_aware)
      throw UsageError("quantization.best_of: \"{}\" sets act_group_aware, which desc_act excludes", text);
    candidates.push_back(std::move(job.quantization));
  }
  return candidates;
}

}  // namespace gptq
