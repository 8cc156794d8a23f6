#include "model/family_config.h"

#include <cmath>
#include <functional>
#include <string>

#include "model/architectures.h"
#include "model/rope_config.h"

namespace gptq::family {
namespace {

/// A key whose absence has a value of its own, and whose null means none: 0.
std::int64_t window_or(const JsonFields& fields, std::int64_t absent) {
  if (fields.is_null("sliding_window")) return 0;
  return fields.has("sliding_window") ? fields.positive("sliding_window") : absent;
}

float cap_or(const JsonFields& fields, const std::string& key, float absent) {
  return fields.is_null(key) ? 0.0f : fields.positive_number(key, absent);
}

void refuse(const JsonFields& fields, const std::string& key, bool wrong, const std::string& why) {
  if (wrong) fields.reject(key, why);
}

/// Blocks that see a window only: those that layer_types names, or, without it, those that `otherwise` does.
std::vector<bool> sliding_blocks(const JsonFields& fields, const ModelConfig& config,
                                 const std::function<bool(std::int64_t block)>& otherwise) {
  const auto blocks = static_cast<std::size_t>(config.num_hidden_layers);
  std::vector<bool> sliding(blocks);
  if (!fields.has("layer_types")) {
    for (std::size_t i = 0; i < blocks; ++i) sliding[i] = otherwise(static_cast<std::int64_t>(i));
    return sliding;
  }
  const nlohmann::ordered_json& types = fields.raw("layer_types");
  if (!types.is_array() || types.size() != blocks)
    fields.reject("layer_types", "must name every block's type");
  for (std::size_t i = 0; i < blocks; ++i) {
    sliding[i] = types[i] == "sliding_attention";
    if (!sliding[i] && types[i] != "full_attention")
      fields.reject("layer_types", "must hold sliding_attention and full_attention only");
  }
  return sliding;
}

void set_windows(ModelConfig& config, std::int64_t window, const std::vector<bool>& sliding) {
  for (std::size_t i = 0; i < sliding.size(); ++i) config.attention[i].window = sliding[i] ? window : 0;
}

void set_window(ModelConfig& config, std::int64_t window) {
  for (ModelConfig::BlockAttention& block : config.attention) block.window = window;
}

void set_scale(ModelConfig& config, float scale) {
  for (ModelConfig::BlockAttention& block : config.attention) block.scale = scale;
}

void read_attention_bias(const JsonFields& fields, ModelConfig& config, bool absent = false) {
  config.qkv_bias = config.o_bias = fields.boolean("attention_bias", absent);
}

void read_qwen_windows(const JsonFields& fields, ModelConfig& config) {
  if (!fields.boolean("use_sliding_window", false) || !fields.has("sliding_window")) return;
  const std::int64_t window = fields.positive("sliding_window");
  const std::int64_t first = fields.integer("max_window_layers", 28);
  set_windows(config, window,
              sliding_blocks(fields, config, [&](std::int64_t block) { return block >= first; }));
}

/// The embedding's factor as transformers multiplies: rounded to the table's type.
float gemma_embedding_scale(const ModelConfig& config) {
  const float scale = std::sqrt(static_cast<float>(config.hidden_size));
  if (config.dtype == DType::bf16) return to_float(to_bf16(scale));
  if (config.dtype == DType::f16) return to_float(to_f16(scale));
  return scale;
}

void read_gemma(const JsonFields& fields, ModelConfig& config) {
  refuse(fields, "use_bidirectional_attention", fields.boolean("use_bidirectional_attention", false),
         "is not supported: the forward pass here is causal");
  read_attention_bias(fields, config);
  config.embedding_scale = gemma_embedding_scale(config);
  set_scale(config, 1.0f / std::sqrt(fields.positive_number("query_pre_attn_scalar", 256)));
}

}  // namespace

void read_llama(const JsonFields& fields, ModelConfig& config) {
  read_attention_bias(fields, config);
  config.mlp_bias = fields.boolean("mlp_bias", false);
}

void read_mistral(const JsonFields& fields, ModelConfig& config) {
  set_window(config, window_or(fields, 4096));
}

void read_qwen2(const JsonFields& fields, ModelConfig& config) {
  config.qkv_bias = true;
  read_qwen_windows(fields, config);
}

void read_qwen3(const JsonFields& fields, ModelConfig& config) {
  read_attention_bias(fields, config);
  read_qwen_windows(fields, config);
}

void read_gemma2(const JsonFields& fields, ModelConfig& config) {
  read_gemma(fields, config);
  config.attention_softcap = cap_or(fields, "attn_logit_softcapping", 50);
  config.logits.cap = cap_or(fields, "final_logit_softcapping", 30);
  set_windows(config, window_or(fields, 4096),
              sliding_blocks(fields, config, [](std::int64_t block) { return block % 2 == 0; }));
}

// Blocks with a window have a rotary embedding of their own, which no scaling reaches.
void read_gemma3(const JsonFields& fields, ModelConfig& config) {
  read_gemma(fields, config);
  config.attention_softcap = cap_or(fields, "attn_logit_softcapping", 0);
  config.logits.cap = cap_or(fields, "final_logit_softcapping", 0);
  const std::int64_t pattern = fields.positive("sliding_window_pattern", 6);
  const std::vector<bool> sliding =
      sliding_blocks(fields, config, [&](std::int64_t block) { return (block + 1) % pattern != 0; });
  set_windows(config, window_or(fields, 4096), sliding);
  const Architecture& architecture = find_architecture(config.model_type);
  const JsonFields modern = fields.child("rope_parameters");
  const bool by_type = fields.has("rope_parameters");
  const float theta = fields.positive_number("rope_theta", 1000000);
  const float local = fields.positive_number("rope_local_base_freq", 10000);
  config.ropes = {read_rope(fields, by_type ? modern.child("full_attention") : fields.child("rope_scaling"),
                            architecture, config, theta),
                  read_rope(fields, modern.child("sliding_attention"), architecture, config, local)};
  for (std::size_t i = 0; i < sliding.size(); ++i) config.attention[i].rope = sliding[i] ? 1 : 0;
}

void read_phi3(const JsonFields& fields, ModelConfig& config) {
  set_window(config, window_or(fields, 0));
}

void read_olmo2(const JsonFields& fields, ModelConfig& config) {
  read_attention_bias(fields, config);
}

void read_granite(const JsonFields& fields, ModelConfig& config) {
  read_llama(fields, config);
  config.embedding_scale = fields.positive_number("embedding_multiplier", 1);
  config.residual_scale = fields.positive_number("residual_multiplier", 1);
  config.logits.scale = 1.0f / fields.positive_number("logits_scaling", 1);
  set_scale(config, fields.positive_number("attention_multiplier", 1));
}

void read_smollm3(const JsonFields& fields, ModelConfig& config) {
  read_llama(fields, config);
  const auto blocks = static_cast<std::size_t>(config.num_hidden_layers);
  const std::int64_t interval = fields.positive("no_rope_layer_interval", 4);
  for (std::size_t i = 0; i < blocks; ++i) {
    const bool every = (static_cast<std::int64_t>(i) + 1) % interval == 0;
    config.attention[i].rope = every ? -1 : 0;
  }
  if (fields.has("no_rope_layers")) {
    const nlohmann::ordered_json& has_rope = fields.raw("no_rope_layers");
    if (!has_rope.is_array() || has_rope.size() < blocks)
      fields.reject("no_rope_layers", "must hold a 0 or 1 for every block");
    for (std::size_t i = 0; i < blocks; ++i) config.attention[i].rope = has_rope[i] == 0 ? -1 : 0;
  }
  if (!fields.boolean("use_sliding_window", false)) return;
  set_windows(config, window_or(fields, 0), sliding_blocks(fields, config, [&](std::int64_t block) {
                return config.attention[static_cast<std::size_t>(block)].rope < 0;
              }));
}

void read_opt(const JsonFields& fields, ModelConfig& config) {
  refuse(fields, "do_layer_norm_before", !fields.boolean("do_layer_norm_before", true),
         "must be true: models with norms behind the residual sum (OPT 350M) are not supported");
  refuse(fields, "word_embed_proj_dim",
         fields.positive("word_embed_proj_dim", config.hidden_size) != config.hidden_size,
         "must be hidden_size: projected embeddings (OPT 350M) are not supported");
  refuse(fields, "_remove_final_layer_norm", fields.boolean("_remove_final_layer_norm", false),
         "is not supported: the final norm is needed");
  refuse(fields, "layer_norm_elementwise_affine", !fields.boolean("layer_norm_elementwise_affine", true),
         "must be true: norms without weights are not supported");
  config.qkv_bias = config.o_bias = config.mlp_bias = fields.boolean("enable_bias", true);
}

void read_gpt2(const JsonFields& fields, ModelConfig& config) {
  refuse(fields, "add_cross_attention", fields.boolean("add_cross_attention", false),
         "is not supported: only decoders without an encoder are");
  config.qkv_bias = config.o_bias = config.mlp_bias = true;
  if (!fields.boolean("scale_attn_weights", true)) set_scale(config, 1);
  if (!fields.boolean("scale_attn_by_inverse_layer_idx", false)) return;
  for (std::size_t i = 0; i < config.attention.size(); ++i)
    config.attention[i].scale /= static_cast<float>(i + 1);
}

void read_gpt_neox(const JsonFields& fields, ModelConfig& config) {
  read_attention_bias(fields, config, true);
  config.mlp_bias = true;
  if (!fields.boolean("use_parallel_residual", true)) config.block_form = BlockForm::sequential;
}

// Three generations: 7B, with one key head; 40B, with groups; and "rw", which is a BLOOM with other names.
void read_falcon(const JsonFields& fields, ModelConfig& config) {
  const bool grouped = fields.boolean("new_decoder_architecture", false);
  const bool one_key = !grouped && fields.boolean("multi_query", true);
  const bool parallel = fields.boolean("parallel_attn", true);
  refuse(fields, "parallel_attn", grouped && !parallel, "must be true with new_decoder_architecture");
  if (one_key) config.num_key_value_heads = 1;
  refuse(fields, "num_kv_heads",
         !grouped && !one_key && config.num_key_value_heads != config.num_attention_heads,
         "must be num_attention_heads without multi_query and new_decoder_architecture");
  config.qkv_form = grouped ? QkvForm::by_group : one_key ? QkvForm::side_by_side : QkvForm::by_head;
  config.qkv_bias = config.o_bias = config.mlp_bias = fields.boolean("bias", false);
  const std::int64_t norms = fields.positive("num_ln_in_parallel_attn", grouped ? 2 : 1);
  refuse(fields, "num_ln_in_parallel_attn", norms > 2 || (norms == 2 && !grouped),
         "must be 1, or 2 with new_decoder_architecture");
  config.block_form = !parallel    ? BlockForm::sequential
                      : norms == 2 ? BlockForm::parallel_two_norms
                                   : BlockForm::parallel;
  if (!fields.boolean("alibi", false)) return;
  config.positions = Positions::alibi;
  config.ropes.clear();
  config.alibi_before_scale = true;
}

void read_bloom(const JsonFields& fields, ModelConfig& config) {
  refuse(fields, "apply_residual_connection_post_layernorm",
         fields.boolean("apply_residual_connection_post_layernorm", false),
         "is not supported: the residual stream here passes no norm");
  config.qkv_bias = config.o_bias = config.mlp_bias = true;
}

void read_stablelm(const JsonFields& fields, ModelConfig& config) {
  config.qkv_bias = fields.boolean("use_qkv_bias", false);
  if (fields.boolean("qk_layernorm", false)) config.head_norm = HeadNorm::per_head;
  if (fields.boolean("use_parallel_residual", false)) config.block_form = BlockForm::parallel;
}

}  // namespace gptq::family
