#include "model/model_config.h"

#include <fstream>
#include <map>

#include "base/error.h"
#include "model/architectures.h"
#include "model/json_fields.h"

namespace gptq {
namespace {

Activation read_activation(const JsonFields& fields) {
  static const std::map<std::string, Activation> known = {{"silu", Activation::silu},
                                                          {"swish", Activation::silu},
                                                          {"gelu", Activation::gelu},
                                                          {"gelu_new", Activation::gelu_tanh},
                                                          {"gelu_pytorch_tanh", Activation::gelu_tanh},
                                                          {"relu", Activation::relu}};
  const auto found = known.find(fields.text("hidden_act", "silu"));
  if (found == known.end()) fields.reject("hidden_act", "must be silu, gelu, gelu_pytorch_tanh or relu");
  return found->second;
}

DType read_dtype(const JsonFields& fields) {
  const std::string key = fields.has("dtype") ? "dtype" : "torch_dtype";
  const std::string name = fields.text(key, "bfloat16");
  if (name == "bfloat16") return DType::bf16;
  if (name == "float16") return DType::f16;
  if (name == "float32") return DType::f32;
  fields.reject(key, "must be bfloat16, float16 or float32");
}

/// The number of positions before scaling: transformers 5 keeps it among the rope parameters, 4 at times
/// outside.
std::int64_t trained_positions(const JsonFields& fields, const JsonFields& rope, const ModelConfig& config) {
  const std::int64_t outside =
      fields.positive("original_max_position_embeddings", config.max_position_embeddings);
  return rope.positive("original_max_position_embeddings", outside);
}

void read_yarn(const JsonFields& rope, ModelConfig::Rope& result) {
  result.beta_fast = rope.positive_number("beta_fast", 32);
  result.beta_slow = rope.positive_number("beta_slow", 1);
  result.truncate = rope.boolean("truncate", true);
  result.attention_factor = rope.positive_number("attention_factor", 0);
  if (rope.has("mscale") || rope.has("mscale_all_dim")) {
    rope.reject(rope.has("mscale") ? "mscale" : "mscale_all_dim", "is not supported for this model type");
  }
}

/// transformers 4: rope_theta beside rope_scaling {rope_type or type, …}; transformers 5: rope_parameters
/// with both.
ModelConfig::Rope read_rope(const JsonFields& fields, const ModelConfig& config) {
  const bool modern = fields.has("rope_parameters");
  const JsonFields rope = fields.child(modern ? "rope_parameters" : "rope_scaling");
  ModelConfig::Rope result;
  result.type = rope.text(rope.has("rope_type") ? "rope_type" : "type", "default");
  result.theta = rope.positive_number("rope_theta", fields.positive_number("rope_theta", 10000));
  result.partial_rotary_factor =
      rope.positive_number("partial_rotary_factor", fields.positive_number("partial_rotary_factor", 1));
  result.original_max_position_embeddings = trained_positions(fields, rope, config);
  if (result.type == "default" || result.type == "dynamic") return result;
  if (result.type != "linear" && result.type != "llama3" && result.type != "yarn") {
    rope.reject("rope_type", "must be default, linear, dynamic, llama3 or yarn");
  }
  if (!rope.has("factor")) rope.reject("factor", fmt::format("is required by rope type {}", result.type));
  result.factor = rope.positive_number("factor", 1);
  if (result.type == "llama3") {
    result.low_freq_factor = rope.positive_number("low_freq_factor", 1);
    result.high_freq_factor = rope.positive_number("high_freq_factor", 4);
    if (result.high_freq_factor <= result.low_freq_factor) {
      rope.reject("high_freq_factor", "must be larger than low_freq_factor");
    }
  }
  if (result.type == "yarn") read_yarn(rope, result);
  return result;
}

/// Which blocks see a window only. Mistral: all; Qwen: those named by layer_types, else from
/// max_window_layers on.
void read_window(const JsonFields& fields, ModelConfig& config) {
  const bool qwen = config.model_type.starts_with("qwen");
  const bool used = qwen ? fields.boolean("use_sliding_window", false) : config.model_type == "mistral";
  if (!used || !fields.has("sliding_window")) return;
  config.sliding_window = fields.positive("sliding_window");
  if (!qwen) return;
  const auto blocks = static_cast<std::size_t>(config.num_hidden_layers);
  config.layer_is_sliding.assign(blocks, 0);
  if (fields.has("layer_types")) {
    const nlohmann::ordered_json& types = fields.raw("layer_types");
    if (!types.is_array() || types.size() != blocks)
      fields.reject("layer_types", "must name every block's type");
    for (std::size_t i = 0; i < blocks; ++i) config.layer_is_sliding[i] = types[i] == "sliding_attention";
    return;
  }
  const std::int64_t first = fields.integer("max_window_layers", 28);
  for (std::size_t i = 0; i < blocks; ++i) config.layer_is_sliding[i] = static_cast<std::int64_t>(i) >= first;
}

void read_attention(const JsonFields& fields, ModelConfig& config) {
  config.num_attention_heads = fields.positive("num_attention_heads");
  config.num_key_value_heads = fields.positive("num_key_value_heads", config.num_attention_heads);
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    fields.reject("num_key_value_heads", "must divide num_attention_heads");
  }
  if (!fields.has("head_dim") && config.hidden_size % config.num_attention_heads != 0) {
    fields.reject("head_dim", "is required where num_attention_heads does not divide hidden_size");
  }
  // Qwen3 fixes its head size, whatever the width; the others derive it.
  const std::int64_t derived =
      config.model_type == "qwen3" ? 128 : config.hidden_size / config.num_attention_heads;
  config.head_dim = fields.positive("head_dim", derived);
  if (config.head_dim % 2 != 0) fields.reject("head_dim", "must be even");
  config.attention_bias = config.model_type != "mistral" && fields.boolean("attention_bias", false);
  if (config.model_type == "qwen2") config.attention_bias = false;  // q, k and v always have one, o never
}

nlohmann::ordered_json parse(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) {
    throw InputError(
        "{} cannot be read: model.path must be a Hugging Face model directory with a config.json",
        path.string());
  }
  try {
    return nlohmann::ordered_json::parse(stream);
  } catch (const nlohmann::json::exception& error) {
    throw InputError("{} is not valid JSON: {}", path.string(), error.what());
  }
}

}  // namespace

ModelConfig read_model_config(const std::filesystem::path& model_directory) {
  const std::filesystem::path path = model_directory / "config.json";
  const nlohmann::ordered_json json = parse(path);
  const JsonFields fields(json, path.string());

  ModelConfig config;
  if (!fields.has("model_type")) fields.reject("model_type", "is required");
  config.model_type = fields.text("model_type", "");
  try {
    find_architecture(config.model_type);
  } catch (const InputError& error) {
    throw InputError("{}: {}", path.string(), error.what());
  }
  config.hidden_size = fields.positive("hidden_size");
  config.intermediate_size = fields.positive("intermediate_size");
  config.num_hidden_layers = fields.positive("num_hidden_layers");
  config.vocab_size = fields.positive("vocab_size");
  config.max_position_embeddings = fields.positive("max_position_embeddings", 2048);
  config.rms_norm_eps = fields.positive_number("rms_norm_eps", 1e-6f);
  config.activation = read_activation(fields);
  config.tie_word_embeddings = fields.boolean("tie_word_embeddings", false);
  config.mlp_bias = config.model_type == "llama" && fields.boolean("mlp_bias", false);
  config.dtype = read_dtype(fields);
  read_attention(fields, config);
  read_window(fields, config);
  config.rope = read_rope(fields, config);
  config.quantized = read_quantized_config(fields);
  return config;
}

}  // namespace gptq
