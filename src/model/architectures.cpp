#include "model/architectures.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>

#include "base/error.h"

namespace gptq {
namespace {

constexpr std::array kArchitectures = {
    Architecture{.model_type = "llama"},
    Architecture{.model_type = "mistral"},
    Architecture{.model_type = "qwen2", .qkv_bias_always = true},
    Architecture{.model_type = "qwen3", .q_norm = "self_attn.q_norm", .k_norm = "self_attn.k_norm"},
};

/// "self_attn.q_proj", "qkv_proj" → "self_attn.qkv_proj"
std::string beside(std::string_view module, const std::string& name) {
  const std::size_t dot = module.rfind('.');
  return std::string(dot == std::string_view::npos ? "" : module.substr(0, dot + 1)) + name;
}

}  // namespace

const Architecture& find_architecture(std::string_view model_type) {
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.model_type == model_type) return architecture;
  }
  throw InputError("model_type \"{}\" is not supported; known: {}", model_type,
                   fmt::join(known_architectures(), ", "));
}

std::vector<std::string_view> known_architectures() {
  std::vector<std::string_view> names;
  for (const Architecture& architecture : kArchitectures) names.push_back(architecture.model_type);
  return names;
}

std::vector<JoinedModules> joined_modules(const Architecture& a) {
  return {{{std::string(a.q), std::string(a.k), std::string(a.v)}, beside(a.q, "qkv_proj")},
          {{std::string(a.gate), std::string(a.up)}, beside(a.gate, "gate_up_proj")}};
}

LinearShape head_shape(const Architecture& architecture, const ModelConfig& config) {
  return {std::string(architecture.head), config.vocab_size, config.hidden_size, false};
}

std::vector<StageGroup> stage_groups(const Architecture& architecture, const ModelConfig& config) {
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t inner = config.intermediate_size;
  const std::int64_t queries = config.num_attention_heads * config.head_dim;
  const std::int64_t keys = config.num_key_value_heads * config.head_dim;
  const bool qkv_bias = config.attention_bias || architecture.qkv_bias_always;
  const auto layer = [](std::string_view name, std::int64_t out, std::int64_t in, bool bias) {
    return LinearShape{std::string(name), out, in, bias};
  };
  const Architecture& a = architecture;
  return {
      {"attention_in",
       hidden,
       {layer(a.q, queries, hidden, qkv_bias), layer(a.k, keys, hidden, qkv_bias),
        layer(a.v, keys, hidden, qkv_bias)}},
      {"attention_out", queries, {layer(a.o, hidden, queries, config.attention_bias)}, true},
      {"mlp_in",
       hidden,
       {layer(a.gate, inner, hidden, config.mlp_bias), layer(a.up, inner, hidden, config.mlp_bias)}},
      {"mlp_out", inner, {layer(a.down, hidden, inner, config.mlp_bias)}, true},
  };
}

std::string block_prefix(const Architecture& architecture, std::int64_t block) {
  return fmt::format(fmt::runtime(architecture.block_prefix), block);
}

}  // namespace gptq
