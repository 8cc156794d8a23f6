#pragma once

#include <string>
#include <vector>

#include "config/job_config.h"
#include "model/weights.h"
#include "quant/recipe.h"

namespace gptq {

/// Rules for GPTQModel's and vLLM's `dynamic` that keep unquantized modules unquantized: texts like
/// "-:^model\.layers\.(?:0|3)\.mlp\.down_proj$". Where all of q, k, v (or gate, up) of a block stay, a rule
/// for vLLM's fused name (qkv_proj, gate_up_proj) is added. Empty if every linear of the blocks is quantized.
std::vector<std::string> skip_rules(const ModelWeights& model, const Recipe& recipe);

/// quantize_config.json, and the value of quantization_config in config.json.
std::string quantize_config_json(const JobConfig& job, const ModelWeights& model, const Recipe& recipe);

/// The source's config.json with quantization_config in it (empty text: none); of a rotated model it says
/// that the head is its own. Everything else is as it was.
std::string output_config_json(const std::string& source_config, const ModelWeights& model,
                               const std::string& quantize_config);

}  // namespace gptq
