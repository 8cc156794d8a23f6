#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/model_config.h"

namespace gptq {

/// One family of decoder models, as data. Adding a family is adding a row to the table in architectures.cpp.
/// Module names are inside a block and without ".weight"; {} in a prefix is the block's number.
struct Architecture {
  std::string_view model_type;  ///< config.json's
  std::string_view block_prefix = "model.layers.{}.";
  std::string_view embedding = "model.embed_tokens";
  std::string_view final_norm = "model.norm";
  std::string_view head = "lm_head";
  std::string_view attention_norm = "input_layernorm";
  std::string_view mlp_norm = "post_attention_layernorm";
  std::string_view q = "self_attn.q_proj";
  std::string_view k = "self_attn.k_proj";
  std::string_view v = "self_attn.v_proj";
  std::string_view o = "self_attn.o_proj";
  std::string_view gate = "mlp.gate_proj";
  std::string_view up = "mlp.up_proj";
  std::string_view down = "mlp.down_proj";
  std::string_view q_norm = "";  ///< RMS norm over each head; empty: none
  std::string_view k_norm = "";
  bool qkv_bias_always = false;  ///< q, k, v carry a bias whatever config.json says (Qwen2)
  float norm_weight_offset = 0;  ///< RMS norm multiplies by weight + offset (Gemma: 1)
};

const Architecture& find_architecture(
    std::string_view model_type);  ///< throws InputError listing the known ones
std::vector<std::string_view> known_architectures();

/// A linear module of a block: its name inside the block ("self_attn.q_proj") and shape.
struct LinearShape {
  std::string name;
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  bool bias = false;
};

/// Layers of a block that share one input, in data-flow order: {q,k,v}, {o}, {gate,up}, {down}.
struct StageGroup {
  std::string name;  ///< "attention_in", "attention_out", "mlp_in", "mlp_out"
  std::int64_t in_features = 0;
  std::vector<LinearShape> layers;
  bool adds_to_residual = false;  ///< what its layers give is added to the residual stream
};

/// Modules that vLLM and SGLang join into one, and its name; names inside a block.
struct JoinedModules {
  std::vector<std::string> parts;
  std::string name;
};
std::vector<JoinedModules> joined_modules(const Architecture& architecture);

/// The head as a linear: (vocab, hidden), without bias.
LinearShape head_shape(const Architecture& architecture, const ModelConfig& config);
std::vector<StageGroup> stage_groups(const Architecture& architecture, const ModelConfig& config);
std::string block_prefix(const Architecture& architecture, std::int64_t block);  ///< "model.layers.7."

}  // namespace gptq
