#include "config/output_format.h"

#include <fmt/format.h>

#include <algorithm>

#include "config/module_rules.h"

namespace gptq {
namespace {

/// The key that gives some layer bits that need planes; empty if none does.
std::string key_with_planes(const QuantizationSection& section) {
  if (needs_planes(section.bits)) return "quantization.bits";
  if (needs_planes(section.mlp_bits)) return "quantization.mlp_bits";
  const bool named = std::any_of(section.module_bits.begin(), section.module_bits.end(),
                                 [](const auto& entry) { return needs_planes(entry.second); });
  if (named) return "quantization.module_bits";
  for (const ModuleRule& rule : section.dynamic) {
    if (rule.keeps() || !conflicts_of(section, rule.values).empty()) continue;  // told by the reader
    if (needs_planes(with_settings(section, rule.values).bits)) return "quantization.dynamic";
  }
  return "";
}

}  // namespace

bool needs_planes(int bits) {
  return bits >= 5 && bits <= 7;
}

std::vector<Conflict> settle_checkpoint_format(JobConfig& job,
                                               const std::function<bool(const std::string&)>& given) {
  OutputSection& output = job.output;
  if (output.format == "dequantized") return {};  // nothing is packed
  const std::string key = key_with_planes(job.quantization);
  std::vector<Conflict> conflicts;
  if (!key.empty() && output.checkpoint_format != "gptq_p") {
    if (given("output.checkpoint_format")) {
      conflicts.push_back(
          {"output.checkpoint_format", "", "", "",
           fmt::format("{} has no form for 5, 6 or 7 bits ({}) that a loader reads; leave it out, or say "
                       "gptq_p, which GPTQModel reads, or take 4 or 8 bits",
                       output.checkpoint_format, key)});
    }
    output.checkpoint_format = "gptq_p";
  }
  if (output.checkpoint_format == "gptq_p" && output.quantization_config == "mixed_gptq") {
    conflicts.push_back(
        {"output.quantization_config", "", "", "",
         fmt::format("mixed_gptq is OneComp's form, and OneComp reads 2, 3, 4 and 8 bits, none of them in "
                     "checkpoint_format gptq_p{}; use gptq, or other bits",
                     key.empty() ? "" : fmt::format(" (which {} asks for)", key))});
  }
  return conflicts;
}

}  // namespace gptq
