#pragma once

#include "model/architectures.h"
#include "model/json_fields.h"

namespace gptq {

/// One rotary embedding. rope: the object that describes it (rope_parameters of transformers 5, rope_scaling
/// of 4); fields: all of config.json, where transformers 4 keeps what is not in there; theta: where neither
/// says.
ModelConfig::Rope read_rope(const JsonFields& fields, const JsonFields& rope,
                            const Architecture& architecture, const ModelConfig& config, float theta);
/// The one that most models have.
ModelConfig::Rope read_rope(const JsonFields& fields, const Architecture& architecture,
                            const ModelConfig& config);

}  // namespace gptq
