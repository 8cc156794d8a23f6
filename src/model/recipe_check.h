#pragma once

#include <string>
#include <vector>

#include "config/job_config.h"
#include "model/model_shape.h"
#include "quant/recipe.h"

namespace gptq {

/// Why the head cannot be quantized as the recipe asks; empty if it can, or is not asked to be.
std::string head_problem(const ModelShape& model, const Recipe& recipe);

/// The recipe against the model that it is for. Throws one UsageError with everything that cannot be: names
/// in module_bits or modules_in_block_to_quantize that no layer has, a head that is tied, differences
/// between layers that output.quantization_config cannot say. Returns what can be but is hardly meant:
/// rules that no layer matches, and differences between modules that vLLM and SGLang join.
std::vector<std::string> check_recipe(const ModelShape& model, const JobConfig& job);

}  // namespace gptq
