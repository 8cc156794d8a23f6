#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "model/quantized_config.h"

namespace gptq {

/// How attention and MLP of a block meet the residual stream. parallel: both read the same norm of it, and
/// are added to it; parallel_two_norms: the same, each with a norm of its own.
enum class BlockForm { sequential, parallel, parallel_two_norms };
/// What tells tokens where they are. learned: rows of a table, added to the embedding; alibi: a bias of the
/// attention scores.
enum class Positions { rotary, learned, alibi };
/// Where the heads of q, k and v lie in the attention's projections. The others are one matrix: side_by_side
/// has all of q, then all of k, then all of v; by_head each head's q, k, v together; by_group each key head's
/// queries, its key and its value.
enum class QkvForm { separate, side_by_side, by_head, by_group };
/// Norms of q and k. shared: each head with the same weights (head_dim); whole: all heads at once; per_head:
/// each head with weights of its own.
enum class HeadNorm { none, shared, whole, per_head };

/// config.json of a Hugging Face model, reduced to what the forward needs. Names are that file's own, as
/// Llama spells them.
struct ModelConfig {
  std::string model_type;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t vocab_size = 0;
  std::int64_t max_position_embeddings = 0;
  float norm_eps = 1e-6f;
  Activation activation = Activation::silu;
  bool tie_word_embeddings = false;
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  DType dtype = DType::bf16;  ///< torch_dtype / dtype: what untouched tensors keep

  BlockForm block_form = BlockForm::sequential;
  Positions positions = Positions::rotary;
  QkvForm qkv_form = QkvForm::separate;
  HeadNorm head_norm = HeadNorm::none;

  float embedding_scale = 1;        ///< of the embedding's rows
  float residual_scale = 1;         ///< of what attention and MLP add to the residual stream
  LogitForm logits;                 ///< of what the head makes
  float attention_softcap = 0;      ///< 0: none
  bool alibi_before_scale = false;  ///< Falcon adds the bias to raw scores, and rounds it to bf16

  /// What differs from block to block.
  struct BlockAttention {
    float scale = 0;          ///< of q·k
    std::int64_t window = 0;  ///< a token sees itself and the window-1 before it; 0: all
    int rope = 0;             ///< index into ropes; -1: no rotary embedding
  };
  std::vector<BlockAttention> attention;  ///< num_hidden_layers

  struct Rope {
    std::string type = "default";  ///< default | linear | dynamic (= default up to the trained length) |
                                   ///< llama3 | yarn | longrope (its short form: up to the trained length)
    float theta = 10000;
    float factor = 1;
    float low_freq_factor = 1;
    float high_freq_factor = 4;
    std::int64_t original_max_position_embeddings = 0;
    float attention_factor = 0;  ///< yarn, longrope: multiplies cos and sin; 0: their default
    float beta_fast = 32;
    float beta_slow = 1;
    bool truncate = true;  ///< yarn: its ramp starts and ends at whole dimensions
    float partial_rotary_factor = 1;
    std::vector<float> short_factor;  ///< longrope: (rotated features / 2)
  };
  std::vector<Rope> ropes;  ///< one, or one for each kind of block; empty without rotary positions

  using Quantized = QuantizedConfig;
  Quantized quantized;  ///< of a model that is quantized already
};

/// Throws InputError naming the file, the key and what is expected; an unknown model_type lists the known
/// ones.
ModelConfig read_model_config(const std::filesystem::path& model_directory);

}  // namespace gptq
