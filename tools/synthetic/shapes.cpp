#include "synthetic/shapes.h"

#include <fmt/ranges.h>

#include <array>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace gptq::synthetic {
namespace {

const std::array kShapes{
    Shape{.name = "tiny",
          .hidden = 256,
          .intermediate = 640,
          .layers = 2,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 64,
          .vocab = 512,
          .tie = true},
    Shape{.name = "smollm2-135m",
          .hidden = 576,
          .intermediate = 1536,
          .layers = 30,
          .heads = 9,
          .kv_heads = 3,
          .head_dim = 64,
          .vocab = 49152,
          .rope_theta = 100000,
          .tie = true},
    Shape{.name = "llama-3-8b",
          .hidden = 4096,
          .intermediate = 14336,
          .layers = 32,
          .heads = 32,
          .kv_heads = 8,
          .head_dim = 128,
          .vocab = 128256,
          .rope_theta = 500000},
    Shape{.name = "llama-3-70b",
          .hidden = 8192,
          .intermediate = 28672,
          .layers = 80,
          .heads = 64,
          .kv_heads = 8,
          .head_dim = 128,
          .vocab = 128256,
          .rope_theta = 500000},
    Shape{.name = "llama-3-405b",
          .hidden = 16384,
          .intermediate = 53248,
          .layers = 126,
          .heads = 128,
          .kv_heads = 8,
          .head_dim = 128,
          .vocab = 128256,
          .positions = 131072,
          .rope_theta = 500000},
    Shape{.name = "mistral-7b",
          .model_type = "mistral",
          .hidden = 4096,
          .intermediate = 14336,
          .layers = 32,
          .heads = 32,
          .kv_heads = 8,
          .head_dim = 128,
          .vocab = 32000,
          .positions = 32768,
          .sliding_window = 4096},
    Shape{.name = "qwen3-8b",
          .model_type = "qwen3",
          .hidden = 4096,
          .intermediate = 12288,
          .layers = 36,
          .heads = 32,
          .kv_heads = 8,
          .head_dim = 128,
          .vocab = 151936,
          .positions = 40960,
          .rope_theta = 1000000,
          .norm_eps = 1e-6},
};

void require(bool holds, std::string_view what) {
  if (!holds) throw UsageError("{}", what);
}

}  // namespace

const Shape& find_shape(std::string_view name) {
  for (const Shape& shape : kShapes) {
    if (shape.name == name) return shape;
  }
  throw UsageError("--shape {} is not known; known: {}", name, fmt::join(known_shapes(), ", "));
}

std::vector<std::string> known_shapes() {
  std::vector<std::string> names;
  for (const Shape& shape : kShapes) names.emplace_back(shape.name);
  return names;
}

void require_sane(const Shape& s) {
  require(s.hidden > 0 && s.intermediate > 0 && s.layers > 0 && s.heads > 0 && s.kv_heads > 0,
          "--hidden, --intermediate, --layers, --heads and --kv-heads must be above 0");
  require(s.vocab >= 2, "--vocab must be at least 2");
  require(s.head_dim > 0 && s.head_dim % 2 == 0, "--head-dim must be even and above 0");
  require(s.heads % s.kv_heads == 0, "--kv-heads must divide --heads");
}

nlohmann::ordered_json config_json(const Shape& s, DType dtype) {
  const nlohmann::ordered_json classes = {{"llama", "LlamaForCausalLM"},
                                          {"mistral", "MistralForCausalLM"},
                                          {"qwen2", "Qwen2ForCausalLM"},
                                          {"qwen3", "Qwen3ForCausalLM"}};
  nlohmann::ordered_json json = {{"architectures", {classes.value(s.model_type, "UnknownForCausalLM")}},
                                 {"model_type", s.model_type},
                                 {"hidden_size", s.hidden},
                                 {"intermediate_size", s.intermediate},
                                 {"num_hidden_layers", s.layers},
                                 {"num_attention_heads", s.heads},
                                 {"num_key_value_heads", s.kv_heads},
                                 {"head_dim", s.head_dim},
                                 {"vocab_size", s.vocab},
                                 {"max_position_embeddings", s.positions},
                                 {"rms_norm_eps", s.norm_eps},
                                 {"rope_theta", s.rope_theta},
                                 {"hidden_act", "silu"},
                                 {"tie_word_embeddings", s.tie},
                                 {"bos_token_id", 0},
                                 {"eos_token_id", 1}};
  if (s.sliding_window > 0) json["sliding_window"] = s.sliding_window;
  json["torch_dtype"] = dtype == DType::f32 ? "float32" : dtype == DType::f16 ? "float16" : "bfloat16";
  return json;
}

}  // namespace gptq::synthetic
