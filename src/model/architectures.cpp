#include "model/architectures.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "model/family_config.h"

namespace gptq {
namespace {

/// What gpt_neox, falcon and bloom call their linears.
constexpr Architecture kFused = {.q = "",
                                 .k = "",
                                 .v = "",
                                 .gate = "",
                                 .up = "mlp.dense_h_to_4h",
                                 .down = "mlp.dense_4h_to_h",
                                 .norm = NormKind::layer,
                                 .qkv_form = QkvForm::by_head,
                                 .mlp_form = MlpForm::plain,
                                 .norm_eps_default = 1e-5f,
                                 .activation_default = "gelu"};

constexpr Architecture gemma(std::string_view model_type) {
  return {.model_type = model_type,
          .mlp_norm = "pre_feedforward_layernorm",
          .attention_out_norm = "post_attention_layernorm",
          .mlp_out_norm = "post_feedforward_layernorm",
          .norm_place = NormPlace::around,
          .norm_weight_offset = 1,
          .keys = {.activation = "hidden_activation"},
          .tie_default = true,
          .head_dim_default = 256,
          .activation_default = "gelu_pytorch_tanh"};
}

constexpr Architecture gemma2() {
  Architecture a = gemma("gemma2");
  a.read = family::read_gemma2;
  return a;
}

constexpr Architecture gemma3() {
  Architecture a = gemma("gemma3_text");
  a.q_norm = "self_attn.q_norm";
  a.k_norm = "self_attn.k_norm";
  a.head_norm = HeadNorm::shared;
  a.theta_default = 1000000;
  a.reads_own_ropes = true;
  a.read = family::read_gemma3;
  return a;
}

constexpr Architecture gpt_neox() {
  Architecture a = kFused;
  a.model_type = "gpt_neox";
  a.base_prefix = "gpt_neox.";
  a.block_prefix = "gpt_neox.layers.{}.";
  a.embedding = "gpt_neox.embed_in";
  a.final_norm = "gpt_neox.final_layer_norm";
  a.other_head = "embed_out";
  a.qkv = "attention.query_key_value";
  a.o = "attention.dense";
  a.dropped = "attention.bias attention.masked_bias";
  a.block_form = BlockForm::parallel_two_norms;
  a.keys = {.norm_eps = "layer_norm_eps"};
  a.partial_rotary_default = 0.25f;
  a.read = family::read_gpt_neox;
  return a;
}

constexpr Architecture falcon() {
  Architecture a = kFused;
  a.model_type = "falcon";
  a.base_prefix = "transformer.";
  a.block_prefix = "transformer.h.{}.";
  a.embedding = "transformer.word_embeddings";
  a.final_norm = "transformer.ln_f";
  a.side_attention_norm = "ln_attn";
  a.side_mlp_norm = "ln_mlp";
  a.qkv = "self_attention.query_key_value";
  a.o = "self_attention.dense";
  a.keys = {.hidden_size = "n_embed",
            .intermediate_size = "ffn_hidden_size",
            .layers = "n_layer",
            .heads = "n_head",
            .kv_heads = "num_kv_heads",
            .norm_eps = "layer_norm_epsilon",
            .activation = "activation"};
  a.tie_default = true;
  a.intermediate_default = true;
  a.read = family::read_falcon;
  return a;
}

constexpr Architecture bloom() {
  Architecture a = kFused;
  a.model_type = "bloom";
  a.base_prefix = "transformer.";
  a.block_prefix = "transformer.h.{}.";
  a.embedding = "transformer.word_embeddings";
  a.embedding_norm = "transformer.word_embeddings_layernorm";
  a.final_norm = "transformer.ln_f";
  a.qkv = "self_attention.query_key_value";
  a.o = "self_attention.dense";
  a.positions = Positions::alibi;
  a.keys = {.hidden_size = "n_embed",
            .intermediate_size = "",
            .layers = "n_layer",
            .heads = "n_head",
            .norm_eps = "layer_norm_epsilon",
            .activation = ""};
  a.tie_default = true;
  a.activation_default = "gelu_pytorch_tanh";
  a.read = family::read_bloom;
  return a;
}

constexpr std::array kArchitectures = {
    Architecture{.model_type = "llama", .rotates = true, .read = family::read_llama},
    Architecture{.model_type = "mistral", .rotates = true, .read = family::read_mistral},
    Architecture{.model_type = "qwen2", .rotates = true, .read = family::read_qwen2},
    Architecture{.model_type = "qwen3",
                 .q_norm = "self_attn.q_norm",
                 .k_norm = "self_attn.k_norm",
                 .head_norm = HeadNorm::shared,
                 .rotates = true,
                 .head_dim_default = 128,
                 .read = family::read_qwen3},
    gemma2(),
    gemma3(),
    Architecture{.model_type = "phi3",
                 .q = "",
                 .k = "",
                 .v = "",
                 .qkv = "self_attn.qkv_proj",
                 .gate = "",
                 .up = "mlp.gate_up_proj",
                 .qkv_form = QkvForm::side_by_side,
                 .mlp_form = MlpForm::gated_fused,
                 .norm_eps_default = 1e-5f,
                 .read = family::read_phi3},
    Architecture{.model_type = "olmo2",
                 .attention_norm = "",
                 .mlp_norm = "",
                 .attention_out_norm = "post_attention_layernorm",
                 .mlp_out_norm = "post_feedforward_layernorm",
                 .q_norm = "self_attn.q_norm",
                 .k_norm = "self_attn.k_norm",
                 .norm_place = NormPlace::behind,
                 .head_norm = HeadNorm::whole,
                 .norm_eps_default = 1e-5f,
                 .read = family::read_olmo2},
    Architecture{.model_type = "granite", .read = family::read_granite},
    Architecture{
        .model_type = "smollm3", .tie_default = true, .theta_default = 2000000, .read = family::read_smollm3},
    Architecture{
        .model_type = "opt",
        .base_prefix = "model.",
        .block_prefix = "model.decoder.layers.{}.",
        .embedding = "model.decoder.embed_tokens",
        .position_embedding = "model.decoder.embed_positions",
        .final_norm = "model.decoder.final_layer_norm",
        .attention_norm = "self_attn_layer_norm",
        .mlp_norm = "final_layer_norm",
        .o = "self_attn.out_proj",
        .gate = "",
        .up = "fc1",
        .down = "fc2",
        .norm = NormKind::layer,
        .positions = Positions::learned,
        .mlp_form = MlpForm::plain,
        .position_offset = 2,
        .keys = {.intermediate_size = "ffn_dim", .norm_eps = "", .activation = "activation_function"},
        .tie_default = true,
        .norm_eps_default = 1e-5f,
        .activation_default = "relu",
        .read = family::read_opt},
    Architecture{.model_type = "gpt2",
                 .base_prefix = "transformer.",
                 .block_prefix = "transformer.h.{}.",
                 .embedding = "transformer.wte",
                 .position_embedding = "transformer.wpe",
                 .final_norm = "transformer.ln_f",
                 .attention_norm = "ln_1",
                 .mlp_norm = "ln_2",
                 .q = "",
                 .k = "",
                 .v = "",
                 .qkv = "attn.c_attn",
                 .o = "attn.c_proj",
                 .gate = "",
                 .up = "mlp.c_fc",
                 .down = "mlp.c_proj",
                 .dropped = "attn.bias attn.masked_bias",
                 .norm = NormKind::layer,
                 .positions = Positions::learned,
                 .qkv_form = QkvForm::side_by_side,
                 .mlp_form = MlpForm::plain,
                 .transposed = true,
                 .keys = {.hidden_size = "n_embd",
                          .intermediate_size = "n_inner",
                          .layers = "n_layer",
                          .heads = "n_head",
                          .positions = "n_positions",
                          .norm_eps = "layer_norm_epsilon",
                          .activation = "activation_function"},
                 .tie_default = true,
                 .intermediate_default = true,
                 .norm_eps_default = 1e-5f,
                 .activation_default = "gelu_new",
                 .read = family::read_gpt2},
    gpt_neox(),
    falcon(),
    bloom(),
    Architecture{.model_type = "stablelm",
                 .q_norm = "self_attn.q_layernorm.norms.{}",
                 .k_norm = "self_attn.k_layernorm.norms.{}",
                 .norm = NormKind::layer,
                 .keys = {.norm_eps = "layer_norm_eps"},
                 .partial_rotary_default = 0.25f,
                 .norm_eps_default = 1e-5f,
                 .read = family::read_stablelm},
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
  const std::string_view hint =
      model_type == "gemma3" ? "; of a Gemma 3 with vision, its text part alone (gemma3_text) is" : "";
  throw InputError("model_type \"{}\" is not supported{}; known: {} (docs/add-an-architecture.md adds one)",
                   model_type, hint, fmt::join(known_architectures(), ", "));
}

std::vector<std::string_view> known_architectures() {
  std::vector<std::string_view> names;
  for (const Architecture& architecture : kArchitectures) names.push_back(architecture.model_type);
  return names;
}

// Matrices that are one in the files already have nothing to be joined with.
std::vector<JoinedModules> joined_modules(const Architecture& a) {
  std::vector<JoinedModules> joined;
  if (a.qkv.empty())
    joined.push_back({{std::string(a.q), std::string(a.k), std::string(a.v)}, beside(a.q, "qkv_proj")});
  if (a.mlp_form == MlpForm::gated)
    joined.push_back({{std::string(a.gate), std::string(a.up)}, beside(a.gate, "gate_up_proj")});
  return joined;
}

LinearShape head_shape(const Architecture& architecture, const ModelConfig& config) {
  return {std::string(architecture.head), config.vocab_size, config.hidden_size, false};
}

bool is_dropped(const Architecture& architecture, std::string_view tensor) {
  if (tensor.ends_with("rotary_emb.inv_freq")) return true;
  std::string_view words = architecture.dropped;
  while (!words.empty()) {
    const std::string_view word = words.substr(0, words.find(' '));
    if (tensor.ends_with("." + std::string(word))) return true;
    words.remove_prefix(std::min(words.size(), word.size() + 1));
  }
  return false;
}

std::string block_prefix(const Architecture& architecture, std::int64_t block) {
  return fmt::format(fmt::runtime(architecture.block_prefix), block);
}

std::vector<TensorShape> norm_tensors(const Architecture& architecture, std::string_view module,
                                      std::int64_t features) {
  std::vector<TensorShape> tensors{{std::string(module) + ".weight", {features}}};
  if (architecture.norm == NormKind::layer) tensors.push_back({std::string(module) + ".bias", {features}});
  return tensors;
}

std::vector<TensorShape> outside_tensors(const Architecture& a, const ModelConfig& config) {
  const std::int64_t hidden = config.hidden_size;
  std::vector<TensorShape> tensors{{std::string(a.embedding) + ".weight", {config.vocab_size, hidden}}};
  if (!a.position_embedding.empty()) {
    tensors.push_back({std::string(a.position_embedding) + ".weight",
                       {config.max_position_embeddings + a.position_offset, hidden}});
  }
  for (const std::string_view norm : {a.embedding_norm, a.final_norm}) {
    if (norm.empty()) continue;
    for (TensorShape& tensor : norm_tensors(a, norm, hidden)) tensors.push_back(std::move(tensor));
  }
  return tensors;
}

}  // namespace gptq
