#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "model/quantized_config.h"

namespace gptq {

/// config.json of a Hugging Face model, reduced to what the forward needs. Names are that file's own.
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
  float rms_norm_eps = 1e-6f;
  Activation activation = Activation::silu;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  std::int64_t sliding_window = 0;             ///< 0: none
  std::vector<std::uint8_t> layer_is_sliding;  ///< per block; empty: all blocks alike
  DType dtype = DType::bf16;                   ///< torch_dtype / dtype: what untouched tensors keep

  struct Rope {
    std::string type =
        "default";  ///< default | linear | dynamic (= default up to the trained length) | llama3 | yarn
    float theta = 10000;
    float factor = 1;
    float low_freq_factor = 1;
    float high_freq_factor = 4;
    std::int64_t original_max_position_embeddings = 0;
    float attention_factor = 0;  ///< yarn: multiplies cos and sin; 0: its default, 0.1 ln(factor) + 1
    float beta_fast = 32;
    float beta_slow = 1;
    bool truncate = true;  ///< yarn: its ramp starts and ends at whole dimensions
    float partial_rotary_factor = 1;
  } rope;

  using Quantized = QuantizedConfig;
  Quantized quantized;  ///< of a model that is quantized already
};

/// Throws InputError naming the file, the key and what is expected; an unknown model_type lists the known
/// ones.
ModelConfig read_model_config(const std::filesystem::path& model_directory);

}  // namespace gptq
