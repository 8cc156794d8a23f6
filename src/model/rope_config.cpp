#include "model/rope_config.h"

#include "base/error.h"

namespace gptq {
namespace {

using Rope = ModelConfig::Rope;

/// The number of positions before scaling: transformers 5 keeps it among the rope parameters, 4 at times
/// outside.
std::int64_t trained_positions(const JsonFields& fields, const JsonFields& rope, const ModelConfig& config) {
  const std::int64_t outside =
      fields.positive("original_max_position_embeddings", config.max_position_embeddings);
  return rope.positive("original_max_position_embeddings", outside);
}

void read_yarn(const JsonFields& rope, Rope& result) {
  result.beta_fast = rope.positive_number("beta_fast", 32);
  result.beta_slow = rope.positive_number("beta_slow", 1);
  result.truncate = rope.boolean("truncate", true);
  result.attention_factor = rope.positive_number("attention_factor", 0);
  if (rope.has("mscale") || rope.has("mscale_all_dim")) {
    rope.reject(rope.has("mscale") ? "mscale" : "mscale_all_dim", "is not supported for this model type");
  }
}

void read_llama3(const JsonFields& rope, Rope& result) {
  result.low_freq_factor = rope.positive_number("low_freq_factor", 1);
  result.high_freq_factor = rope.positive_number("high_freq_factor", 4);
  if (result.high_freq_factor <= result.low_freq_factor) {
    rope.reject("high_freq_factor", "must be larger than low_freq_factor");
  }
}

/// Its factors say by what each frequency is divided; the model is as many times longer than it was trained
/// as its lengths say.
void read_longrope(const JsonFields& rope, const ModelConfig& config, Rope& result) {
  const nlohmann::ordered_json& factors = rope.raw("short_factor");
  if (!factors.is_array()) rope.reject("short_factor", "must be a list of numbers");
  for (const auto& factor : factors) {
    if (!factor.is_number() || factor.get<float>() <= 0)
      rope.reject("short_factor", "must be a list of numbers > 0");
    result.short_factor.push_back(factor.get<float>());
  }
  result.factor = static_cast<float>(config.max_position_embeddings) /
                  static_cast<float>(result.original_max_position_embeddings);
  result.attention_factor = rope.positive_number("attention_factor", 0);
}

/// Phi-3's first files have other names for what is longrope now.
std::string type_of(const JsonFields& rope, const ModelConfig& config) {
  const std::string type = rope.text(rope.has("rope_type") ? "rope_type" : "type", "default");
  const bool early = config.model_type == "phi3" && (type == "su" || type == "yarn");
  return early ? "longrope" : type;
}

}  // namespace

Rope read_rope(const JsonFields& fields, const JsonFields& rope, const Architecture& architecture,
               const ModelConfig& config, float theta) {
  Rope result;
  result.type = type_of(rope, config);
  result.theta = rope.positive_number("rope_theta", theta);
  const std::string part(fields.has("rotary_pct") ? "rotary_pct" : "partial_rotary_factor");
  result.partial_rotary_factor = rope.positive_number(
      "partial_rotary_factor", fields.positive_number(part, architecture.partial_rotary_default));
  result.original_max_position_embeddings = trained_positions(fields, rope, config);
  if (result.type == "default" || result.type == "dynamic") return result;
  if (result.type == "longrope") {
    read_longrope(rope, config, result);
    return result;
  }
  if (result.type != "linear" && result.type != "llama3" && result.type != "yarn") {
    rope.reject("rope_type", "must be default, linear, dynamic, llama3, yarn or longrope");
  }
  if (!rope.has("factor")) rope.reject("factor", fmt::format("is required by rope type {}", result.type));
  result.factor = rope.positive_number("factor", 1);
  if (result.type == "llama3") read_llama3(rope, result);
  if (result.type == "yarn") read_yarn(rope, result);
  return result;
}

// transformers 4: rope_theta beside rope_scaling {rope_type or type, …}; transformers 5: rope_parameters with
// both.
Rope read_rope(const JsonFields& fields, const Architecture& architecture, const ModelConfig& config) {
  const JsonFields rope = fields.child(fields.has("rope_parameters") ? "rope_parameters" : "rope_scaling");
  const std::string theta(fields.has("rotary_emb_base") ? "rotary_emb_base" : "rope_theta");
  return read_rope(fields, rope, architecture, config,
                   fields.positive_number(theta, architecture.theta_default));
}

}  // namespace gptq
