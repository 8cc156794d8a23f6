#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace gptq::test {

/// A Llama of this shape.
struct HollowShape {
  std::int64_t hidden = 4096, inner = 14336, blocks = 32, heads = 32, key_value_heads = 8, vocab = 128256;
  std::string dtype = "BF16";  ///< or F32; F8_E4M3: of the linears, with scales for 128 x 128
};

/// A model directory whose weights are all hole: enough to plan, nothing to compute with.
inline void write_hollow_model(const std::filesystem::path& directory, const HollowShape& shape) {
  using nlohmann::json;
  const bool wide = shape.dtype == "F32";
  const bool fp8 = shape.dtype == "F8_E4M3";
  json config = {{"model_type", "llama"},
                 {"hidden_size", shape.hidden},
                 {"intermediate_size", shape.inner},
                 {"num_hidden_layers", shape.blocks},
                 {"num_attention_heads", shape.heads},
                 {"num_key_value_heads", shape.key_value_heads},
                 {"vocab_size", shape.vocab},
                 {"max_position_embeddings", 131072},
                 {"rms_norm_eps", 1e-5},
                 {"rope_theta", 500000.0},
                 {"tie_word_embeddings", false},
                 {"torch_dtype", wide ? "float32" : "bfloat16"},
                 {"hidden_act", "silu"}};
  if (fp8) config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}};
  std::ofstream(directory / "config.json") << config.dump(2);

  json header;
  std::int64_t end = 0;
  const auto place = [&](const std::string& name, const std::string& dtype,
                         const std::vector<std::int64_t>& sizes) {
    const std::int64_t first = end;
    std::int64_t bytes = dtype == "F32" ? 4 : dtype == "BF16" ? 2 : 1;
    for (const std::int64_t size : sizes) bytes *= size;
    end += bytes;
    header[name] = {{"dtype", dtype}, {"shape", sizes}, {"data_offsets", {first, end}}};
  };
  const auto add = [&](const std::string& name, const std::vector<std::int64_t>& sizes) {
    const bool coded = fp8 && name.ends_with("_proj");
    place(name + ".weight", fp8 && !coded ? "BF16" : shape.dtype, sizes);
    if (coded) place(name + ".weight_scale_inv", "F32", {(sizes[0] + 127) / 128, (sizes[1] + 127) / 128});
  };
  const std::int64_t keys = shape.hidden / shape.heads * shape.key_value_heads;
  add("model.embed_tokens", {shape.vocab, shape.hidden});
  for (std::int64_t block = 0; block < shape.blocks; ++block) {
    const std::string prefix = "model.layers." + std::to_string(block) + ".";
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"})
      add(prefix + norm, {shape.hidden});
    add(prefix + "self_attn.q_proj", {shape.hidden, shape.hidden});
    add(prefix + "self_attn.k_proj", {keys, shape.hidden});
    add(prefix + "self_attn.v_proj", {keys, shape.hidden});
    add(prefix + "self_attn.o_proj", {shape.hidden, shape.hidden});
    add(prefix + "mlp.gate_proj", {shape.inner, shape.hidden});
    add(prefix + "mlp.up_proj", {shape.inner, shape.hidden});
    add(prefix + "mlp.down_proj", {shape.hidden, shape.inner});
  }
  add("model.norm", {shape.hidden});
  add("lm_head", {shape.vocab, shape.hidden});

  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const auto path = directory / "model.safetensors";
  {
    std::ofstream file(path, std::ios::binary);
    const auto length = static_cast<std::uint64_t>(text.size());
    file.write(reinterpret_cast<const char*>(&length), sizeof(length));
    file << text;
  }
  std::filesystem::resize_file(path, 8 + text.size() + static_cast<std::uint64_t>(end));
}

}  // namespace gptq::test
