#pragma once

#include <string>
#include <utility>
#include <vector>

#include "config/job_config.h"
#include "model/weights.h"
#include "quant/recipe.h"

namespace gptq {

/// Rules for GPTQModel's and vLLM's `dynamic` with their values as JSON, for modules that are not stored as
/// all are: "-:^model\.layers\.(?:0|3)\.mlp\.down_proj$" keeps unquantized ones so, "+:…" gives others their
/// bits, group_size, sym and desc_act. Where all of q, k, v (or gate, up) of a block are alike, a rule for
/// vLLM's joined name (qkv_proj, gate_up_proj) is added. No two rules match the same module.
std::vector<std::pair<std::string, std::string>> dynamic_rules(const ModelWeights& model,
                                                               const Recipe& recipe);

/// quantize_config.json, and the value of quantization_config in config.json: with the rules, or with
/// OneComp's list of every module's bits (job.output.quantization_config).
std::string quantize_config_json(const JobConfig& job, const ModelWeights& model, const Recipe& recipe);

/// The source's config.json with quantization_config in it (empty text: none); of a rotated model it says
/// that the head is its own. Everything else is as it was.
std::string output_config_json(const std::string& source_config, const ModelWeights& model,
                               const std::string& quantize_config);

}  // namespace gptq
