#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/model_config.h"

namespace gptq {

class JsonFields;

enum class NormKind { rms, layer };  ///< layer: the mean is removed, and there is a bias
/// Where the norms of attention and MLP stand: before them, before and behind, or behind only.
enum class NormPlace { before, around, behind };
/// plain: activation(up) goes into down; gated_fused: gate and up, one behind the other, are one matrix,
/// `up`.
enum class MlpForm { gated, gated_fused, plain };

/// How config.json spells what every family has; an empty intermediate_size: four times the width, always.
struct ConfigKeys {
  std::string_view hidden_size = "hidden_size";
  std::string_view intermediate_size = "intermediate_size";
  std::string_view layers = "num_hidden_layers";
  std::string_view heads = "num_attention_heads";
  std::string_view kv_heads = "num_key_value_heads";
  std::string_view positions = "max_position_embeddings";
  std::string_view norm_eps = "rms_norm_eps";
  std::string_view activation = "hidden_act";
};

/// One family of decoder models, as data. Adding a family is adding a row to the table in architectures.cpp
/// (docs/add-an-architecture.md). Module names are inside a block and without ".weight"; {} in a prefix is
/// the block's number; an empty name: the family has no such module.
struct Architecture {
  std::string_view model_type = "";  ///< config.json's
  /// Some files of the family leave this away from all names that begin with it.
  std::string_view base_prefix = "";
  std::string_view block_prefix = "model.layers.{}.";
  std::string_view embedding = "model.embed_tokens";
  std::string_view position_embedding = "";
  std::string_view embedding_norm = "";
  std::string_view final_norm = "model.norm";
  std::string_view head = "lm_head";
  std::string_view other_head = "";  ///< what some files call it
  std::string_view attention_norm = "input_layernorm";
  std::string_view mlp_norm = "post_attention_layernorm";
  std::string_view attention_out_norm = "";
  std::string_view mlp_out_norm = "";
  /// Of blocks whose form is parallel_two_norms, where they are not those above.
  std::string_view side_attention_norm = "";
  std::string_view side_mlp_norm = "";
  std::string_view q = "self_attn.q_proj";
  std::string_view k = "self_attn.k_proj";
  std::string_view v = "self_attn.v_proj";
  std::string_view qkv = "";  ///< instead of the three, where they are one matrix
  std::string_view o = "self_attn.o_proj";
  std::string_view gate = "mlp.gate_proj";
  std::string_view up = "mlp.up_proj";
  std::string_view down = "mlp.down_proj";
  std::string_view q_norm = "";  ///< per_head: with {} for the head
  std::string_view k_norm = "";
  /// Words: tensors that end in one are buffers, no weights. Neither read nor written, as are
  /// rotary_emb.inv_freq.
  std::string_view dropped = "";

  NormKind norm = NormKind::rms;
  NormPlace norm_place = NormPlace::before;
  BlockForm block_form = BlockForm::sequential;
  Positions positions = Positions::rotary;
  QkvForm qkv_form = QkvForm::separate;
  MlpForm mlp_form = MlpForm::gated;
  HeadNorm head_norm = HeadNorm::none;
  float norm_weight_offset = 0;      ///< RMS norm multiplies by weight + offset (Gemma: 1)
  std::int64_t position_offset = 0;  ///< row of position_embedding that belongs to a sample's first token
  bool transposed = false;           ///< weights of linears lie as (in, out) in the files (Conv1D)
  bool rotates = false;              ///< quantization.rotation is tested for it

  ConfigKeys keys = {};
  bool tie_default = false;
  bool intermediate_default = false;  ///< four times the width where config.json does not say
  std::int64_t head_dim_default = 0;  ///< 0: hidden_size / heads
  float theta_default = 10000;
  float partial_rotary_default = 1;
  bool reads_own_ropes = false;  ///< `read` makes config.ropes
  float norm_eps_default = 1e-6f;
  std::string_view activation_default = "silu";
  /// What no column says: run last, on a config that has all the rest. Null: nothing.
  void (*read)(const JsonFields& fields, ModelConfig& config) = nullptr;
};

/// Throws InputError listing the known ones.
const Architecture& find_architecture(std::string_view model_type);
std::vector<std::string_view> known_architectures();

/// A linear module of a block: its name inside the block ("self_attn.q_proj") and shape.
struct LinearShape {
  std::string name;
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  bool bias = false;
  bool transposed = false;  ///< its weight lies as (in, out) in the files; in memory it never does

  std::vector<std::int64_t> stored_shape() const {
    return transposed ? std::vector{in_features, out_features} : std::vector{out_features, in_features};
  }
};

/// Modules that vLLM and SGLang join into one, and its name; names inside a block.
struct JoinedModules {
  std::vector<std::string> parts;
  std::string name;
};
std::vector<JoinedModules> joined_modules(const Architecture& architecture);

/// The head as a linear: (vocab, hidden), without bias.
LinearShape head_shape(const Architecture& architecture, const ModelConfig& config);
/// A buffer that some files hold among the weights, and that no loader needs.
bool is_dropped(const Architecture& architecture, std::string_view tensor);
std::string block_prefix(const Architecture& architecture, std::int64_t block);  ///< "model.layers.7."

/// A tensor that is no linear's, and its shape.
struct TensorShape {
  std::string name;  ///< with ".weight" or ".bias"
  std::vector<std::int64_t> shape;
};
/// Full names of those outside the blocks: embeddings, final norm; without the head.
std::vector<TensorShape> outside_tensors(const Architecture& architecture, const ModelConfig& config);
/// A norm's tensors.
std::vector<TensorShape> norm_tensors(const Architecture& architecture, std::string_view module,
                                      std::int64_t features);

}  // namespace gptq
