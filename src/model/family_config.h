#pragma once

#include "model/json_fields.h"
#include "model/model_config.h"

/// What config.json says in one family only: the `read` column of the table of architectures. Each is given a
/// config with everything that families have in common, windows none and positions the first rope's.
namespace gptq::family {

void read_llama(const JsonFields& fields, ModelConfig& config);
void read_mistral(const JsonFields& fields, ModelConfig& config);
void read_qwen2(const JsonFields& fields, ModelConfig& config);
void read_qwen3(const JsonFields& fields, ModelConfig& config);
void read_gemma2(const JsonFields& fields, ModelConfig& config);
void read_gemma3(const JsonFields& fields, ModelConfig& config);
void read_phi3(const JsonFields& fields, ModelConfig& config);
void read_olmo2(const JsonFields& fields, ModelConfig& config);
void read_granite(const JsonFields& fields, ModelConfig& config);
void read_smollm3(const JsonFields& fields, ModelConfig& config);
void read_opt(const JsonFields& fields, ModelConfig& config);
void read_gpt2(const JsonFields& fields, ModelConfig& config);
void read_gpt_neox(const JsonFields& fields, ModelConfig& config);
void read_falcon(const JsonFields& fields, ModelConfig& config);
void read_bloom(const JsonFields& fields, ModelConfig& config);
void read_stablelm(const JsonFields& fields, ModelConfig& config);

}  // namespace gptq::family
