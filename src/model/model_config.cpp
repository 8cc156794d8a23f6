#include "model/model_config.h"

#include <cmath>
#include <fstream>
#include <map>

#include "base/error.h"
#include "model/architectures.h"
#include "model/json_fields.h"
#include "model/rope_config.h"

namespace gptq {
namespace {

/// A key by the family's name for it, or by Llama's, which transformers takes as well.
std::string key_of(const JsonFields& fields, std::string_view own, const char* common) {
  const std::string key(own);
  return fields.has(key) || !fields.has(common) ? key : common;
}

Activation read_activation(const JsonFields& fields, const Architecture& architecture) {
  static const std::map<std::string, Activation> known = {{"silu", Activation::silu},
                                                          {"swish", Activation::silu},
                                                          {"gelu", Activation::gelu},
                                                          {"gelu_new", Activation::gelu_tanh},
                                                          {"gelu_fast", Activation::gelu_tanh},
                                                          {"gelu_pytorch_tanh", Activation::gelu_tanh},
                                                          {"relu", Activation::relu}};
  const std::string key(architecture.keys.activation);
  const std::string otherwise(architecture.activation_default);
  const auto found = known.find(key.empty() ? otherwise : fields.text(key, otherwise));
  if (found == known.end())
    fields.reject(key, "must be silu, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh or relu");
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

void read_sizes(const JsonFields& fields, const Architecture& architecture, ModelConfig& config) {
  const ConfigKeys& keys = architecture.keys;
  config.hidden_size = fields.positive(key_of(fields, keys.hidden_size, "hidden_size"));
  if (keys.intermediate_size.empty()) {
    config.intermediate_size = 4 * config.hidden_size;
  } else {
    const std::string key = key_of(fields, keys.intermediate_size, "intermediate_size");
    config.intermediate_size = architecture.intermediate_default
                                   ? fields.positive(key, 4 * config.hidden_size)
                                   : fields.positive(key);
  }
  config.num_hidden_layers = fields.positive(key_of(fields, keys.layers, "num_hidden_layers"));
  config.vocab_size = fields.positive("vocab_size");
  config.max_position_embeddings =
      fields.positive(key_of(fields, keys.positions, "max_position_embeddings"), 2048);
}

void read_attention(const JsonFields& fields, const Architecture& architecture, ModelConfig& config) {
  const ConfigKeys& keys = architecture.keys;
  config.num_attention_heads = fields.positive(key_of(fields, keys.heads, "num_attention_heads"));
  const std::string kv_key(keys.kv_heads);
  config.num_key_value_heads = fields.positive(kv_key, config.num_attention_heads);
  if (config.num_attention_heads % config.num_key_value_heads != 0)
    fields.reject(kv_key, "must divide num_attention_heads");
  const std::int64_t derived = config.hidden_size / config.num_attention_heads;
  const std::int64_t otherwise = architecture.head_dim_default > 0 ? architecture.head_dim_default : derived;
  if (!fields.has("head_dim") && otherwise == derived &&
      config.hidden_size % config.num_attention_heads != 0) {
    fields.reject("head_dim", "is required where num_attention_heads does not divide hidden_size");
  }
  config.head_dim = fields.positive("head_dim", otherwise);
  if (architecture.positions == Positions::rotary && config.head_dim % 2 != 0)
    fields.reject("head_dim", "must be even");
}

void read_forms(const Architecture& architecture, ModelConfig& config) {
  config.block_form = architecture.block_form;
  config.positions = architecture.positions;
  config.qkv_form = architecture.qkv_form;
  config.head_norm = architecture.head_norm;
  config.attention.assign(static_cast<std::size_t>(config.num_hidden_layers),
                          {1.0f / std::sqrt(static_cast<float>(config.head_dim)), 0, 0});
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

const Architecture& architecture_of(const std::string& model_type, const std::filesystem::path& path) {
  try {
    return find_architecture(model_type);
  } catch (const InputError& error) {
    throw InputError("{}: {}", path.string(), error.what());
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
  const Architecture& architecture = architecture_of(config.model_type, path);
  read_sizes(fields, architecture, config);
  const std::string eps(architecture.keys.norm_eps);
  config.norm_eps = eps.empty() ? architecture.norm_eps_default
                                : fields.positive_number(eps, architecture.norm_eps_default);
  config.activation = read_activation(fields, architecture);
  config.tie_word_embeddings = fields.boolean("tie_word_embeddings", architecture.tie_default);
  config.dtype = read_dtype(fields);
  read_attention(fields, architecture, config);
  read_forms(architecture, config);
  if (config.positions == Positions::rotary && !architecture.reads_own_ropes)
    config.ropes = {read_rope(fields, architecture, config)};
  if (architecture.read != nullptr) architecture.read(fields, config);
  config.quantized = read_quantized_config(fields);
  return config;
}

}  // namespace gptq
