#include "support/tiny_model.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "base/sha256.h"
#include "base/tensor.h"
#include "io/hdf5_handle.h"
#include "io/safetensors_writer.h"

namespace gptq::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// A generator whose numbers are the same with every standard library.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  std::int64_t below(std::int64_t limit) {
    return static_cast<std::int64_t>(uniform() * static_cast<double>(limit));
  }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * M_PI * uniform());
  }

 private:
  std::mt19937_64 engine_;
};

enum class Kind { linear, norm, bias, embedding };

struct Tensor {
  std::string name;
  std::vector<std::int64_t> shape;
  Kind kind;
};

HostTensor fill(const Tensor& tensor, DType dtype, Random& random) {
  HostTensor values = make_tensor(DType::f32, tensor.shape);
  auto* data = reinterpret_cast<float*>(values.storage.data());
  const std::int64_t cols = tensor.shape.back();
  std::vector<double> column_scale(static_cast<std::size_t>(cols), 1.0);
  if (tensor.kind == Kind::linear) {
    for (double& scale : column_scale) scale = (random.below(16) == 0 ? 8.0 : 1.0) / std::sqrt(double(cols));
  }
  for (std::int64_t i = 0; i < values.elements(); ++i) {
    const double normal = random.normal() * column_scale[static_cast<std::size_t>(i % cols)];
    switch (tensor.kind) {
      case Kind::linear:
        data[i] = static_cast<float>(normal);
        break;
      case Kind::norm:
        data[i] = static_cast<float>(1 + 0.1 * normal);
        break;
      case Kind::bias:
        data[i] = static_cast<float>(0.1 * normal);
        break;
      case Kind::embedding:
        data[i] = static_cast<float>(normal);
        break;
    }
  }
  return convert(values, dtype);
}

std::vector<Tensor> block_tensors(const TinyModelOptions& o, std::int64_t block) {
  const std::string prefix = "model.layers." + std::to_string(block) + ".";
  const std::int64_t head_dim = o.hidden / o.heads;
  const std::int64_t kv = o.kv_heads * head_dim;
  std::vector<Tensor> tensors{{prefix + "input_layernorm.weight", {o.hidden}, Kind::norm},
                              {prefix + "self_attn.q_proj.weight", {o.hidden, o.hidden}, Kind::linear},
                              {prefix + "self_attn.k_proj.weight", {kv, o.hidden}, Kind::linear},
                              {prefix + "self_attn.v_proj.weight", {kv, o.hidden}, Kind::linear},
                              {prefix + "self_attn.o_proj.weight", {o.hidden, o.hidden}, Kind::linear},
                              {prefix + "post_attention_layernorm.weight", {o.hidden}, Kind::norm},
                              {prefix + "mlp.gate_proj.weight", {o.intermediate, o.hidden}, Kind::linear},
                              {prefix + "mlp.up_proj.weight", {o.intermediate, o.hidden}, Kind::linear},
                              {prefix + "mlp.down_proj.weight", {o.hidden, o.intermediate}, Kind::linear}};
  if (o.model_type == "qwen2") {
    tensors.push_back({prefix + "self_attn.q_proj.bias", {o.hidden}, Kind::bias});
    tensors.push_back({prefix + "self_attn.k_proj.bias", {kv}, Kind::bias});
    tensors.push_back({prefix + "self_attn.v_proj.bias", {kv}, Kind::bias});
  }
  if (o.model_type == "qwen3") {
    tensors.push_back({prefix + "self_attn.q_norm.weight", {head_dim}, Kind::norm});
    tensors.push_back({prefix + "self_attn.k_norm.weight", {head_dim}, Kind::norm});
  }
  return tensors;
}

/// The tensors of each file.
std::vector<std::vector<Tensor>> deal(const TinyModelOptions& o) {
  std::vector<std::vector<Tensor>> files(static_cast<std::size_t>(o.shards));
  files.front().push_back({"model.embed_tokens.weight", {o.vocab, o.hidden}, Kind::embedding});
  for (std::int64_t block = 0; block < o.layers; ++block) {
    auto& file = files[static_cast<std::size_t>(block * o.shards / o.layers)];
    for (Tensor& tensor : block_tensors(o, block)) file.push_back(std::move(tensor));
  }
  files.back().push_back({"model.norm.weight", {o.hidden}, Kind::norm});
  if (!o.tie) files.back().push_back({"lm_head.weight", {o.vocab, o.hidden}, Kind::linear});
  return files;
}

void write_json(const fs::path& path, const json& value) {
  std::ofstream(path) << value.dump(2) << "\n";
}

json config_of(const TinyModelOptions& o) {
  const std::string dtype = o.dtype == DType::f32   ? "float32"
                            : o.dtype == DType::f16 ? "float16"
                                                    : "bfloat16";
  const json architectures = {{"llama", "LlamaForCausalLM"},
                              {"mistral", "MistralForCausalLM"},
                              {"qwen2", "Qwen2ForCausalLM"},
                              {"qwen3", "Qwen3ForCausalLM"}};
  return {{"model_type", o.model_type},
          {"architectures", {architectures.value(o.model_type, "UnknownForCausalLM")}},
          {"hidden_size", o.hidden},
          {"intermediate_size", o.intermediate},
          {"num_hidden_layers", o.layers},
          {"num_attention_heads", o.heads},
          {"num_key_value_heads", o.kv_heads},
          {"head_dim", o.hidden / o.heads},
          {"vocab_size", o.vocab},
          {"max_position_embeddings", 256},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", o.tie},
          {"attention_bias", false},
          {"mlp_bias", false},
          {"bos_token_id", 0},
          {"eos_token_id", 1},
          {"torch_dtype", dtype}};
}

void write_text(hid_t file, const char* name, const std::string& text) {
  const Hdf5Handle type(hdf5_check(H5Tcopy(H5T_C_S1), "write", name));
  hdf5_check(H5Tset_size(type.get(), H5T_VARIABLE), "write", name);
  hdf5_check(H5Tset_cset(type.get(), H5T_CSET_UTF8), "write", name);
  const Hdf5Handle space(hdf5_check(H5Screate(H5S_SCALAR), "write", name));
  const Hdf5Handle attribute(
      hdf5_check(H5Acreate2(file, name, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT), "write", name));
  const char* pointer = text.c_str();
  hdf5_check(H5Awrite(attribute.get(), type.get(), static_cast<const void*>(&pointer)), "write", name);
}

void write_integer(hid_t object, const char* name, std::int64_t value) {
  const Hdf5Handle space(hdf5_check(H5Screate(H5S_SCALAR), "write", name));
  const Hdf5Handle attribute(hdf5_check(
      H5Acreate2(object, name, H5T_STD_I64LE, space.get(), H5P_DEFAULT, H5P_DEFAULT), "write", name));
  hdf5_check(H5Awrite(attribute.get(), H5T_NATIVE_INT64, &value), "write", name);
}

Hdf5Handle write_dataset(hid_t file, const char* name, const std::vector<hsize_t>& shape,
                         const std::int32_t* data) {
  const Hdf5Handle space(
      hdf5_check(H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr), "write", name));
  Hdf5Handle dataset(
      hdf5_check(H5Dcreate2(file, name, H5T_STD_I32LE, space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                 "write", name));
  hdf5_check(H5Dwrite(dataset.get(), H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), "write", name);
  return dataset;
}

/// Tokens of one sample: three of four come from eight favourites.
void draw_sample(std::int32_t* row, std::int64_t length, std::int64_t vocab, Random& random) {
  std::vector<std::int32_t> favourites(8);
  for (std::int32_t& token : favourites) token = static_cast<std::int32_t>(random.below(vocab));
  for (std::int64_t i = 0; i < length; ++i) {
    row[i] = random.below(4) == 0 ? static_cast<std::int32_t>(random.below(vocab))
                                  : favourites[static_cast<std::size_t>(random.below(8))];
  }
}

}  // namespace

void write_tiny_model(const fs::path& directory, const TinyModelOptions& options) {
  if (options.shards < 1 || options.shards > options.layers) throw std::invalid_argument("shards");
  fs::create_directories(directory);
  Random random(options.seed);
  const auto files = deal(options);
  json weight_map;
  std::uint64_t total = 0;
  for (std::size_t f = 0; f < files.size(); ++f) {
    const std::string name = files.size() == 1
                                 ? "model.safetensors"
                                 : fmt::format("model-{:05}-of-{:05}.safetensors", f + 1, files.size());
    std::vector<std::pair<std::string, TensorInfo>> infos;
    for (const Tensor& tensor : files[f])
      infos.push_back({tensor.name, {options.dtype, tensor.shape, "", 0, 0}});
    SafetensorsWriter writer(directory / name, infos);
    for (const Tensor& tensor : files[f]) {
      const HostTensor values = fill(tensor, options.dtype, random);
      writer.write(tensor.name, values);
      weight_map[tensor.name] = name;
      total += values.storage.size();
    }
    writer.finish();
  }
  if (files.size() > 1) {
    write_json(directory / "model.safetensors.index.json",
               {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}});
  }
  write_json(directory / "config.json", config_of(options));
  write_json(directory / "generation_config.json", {{"bos_token_id", 0}, {"eos_token_id", 1}});
  write_json(directory / "tokenizer.json", {{"version", "1.0"}, {"model", {{"type", "dummy"}}}});
}

namespace {

constexpr std::int32_t kPad = 0;

/// Arrays of a calibration file; rows of seqlen.
struct CalibrationArrays {
  std::int64_t seqlen = 0;
  std::int64_t vocab = 0;
  std::int64_t seed = 0;
  const char* mode = "windows";
  std::vector<std::int32_t> ids, lengths, mask;  ///< mask: empty for a file of version 1
};

void write_arrays(const fs::path& path, const CalibrationArrays& arrays) {
  const bool masked = !arrays.mask.empty();
  Sha256 hash;
  for (const auto* array : {&arrays.mask, &arrays.ids, &arrays.lengths})
    hash.update(array->data(), array->size() * sizeof(std::int32_t));

  const Hdf5Handle file(
      hdf5_check(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), "create", path.string()));
  write_text(file.get(), "format", "gptq-hpc-calibration");
  write_integer(file.get(), "version", masked ? 2 : 1);
  write_text(file.get(), "source", "tests/support/tiny_model.cpp");
  write_text(file.get(), "vocabulary_sha256", "");
  write_integer(file.get(), "vocab_size", arrays.vocab);
  write_integer(file.get(), "nsamples", static_cast<std::int64_t>(arrays.lengths.size()));
  write_integer(file.get(), "seqlen", arrays.seqlen);
  write_integer(file.get(), "seed", arrays.seed);
  write_text(file.get(), "mode", arrays.mode);
  write_text(file.get(), "created_by", "gptq-hpc tests");
  write_text(file.get(), "sha256", hash.hex());
  const auto rows = static_cast<hsize_t>(arrays.lengths.size());
  const auto columns = static_cast<hsize_t>(arrays.seqlen);
  const Hdf5Handle dataset = write_dataset(file.get(), "input_ids", {rows, columns}, arrays.ids.data());
  write_integer(dataset.get(), "pad_id", kPad);
  if (masked) write_dataset(file.get(), "attention_mask", {rows, columns}, arrays.mask.data());
  write_dataset(file.get(), "lengths", {rows}, arrays.lengths.data());
}

}  // namespace

void write_samples(const fs::path& path, const std::vector<std::vector<std::int32_t>>& samples,
                   std::int64_t vocab) {
  CalibrationArrays arrays;
  arrays.vocab = vocab;
  arrays.mode = "rows";
  for (const auto& sample : samples)
    arrays.seqlen = std::max(arrays.seqlen, static_cast<std::int64_t>(sample.size()));
  for (const auto& sample : samples) {
    arrays.lengths.push_back(static_cast<std::int32_t>(sample.size()));
    arrays.ids.insert(arrays.ids.end(), sample.begin(), sample.end());
    arrays.ids.resize(arrays.lengths.size() * static_cast<std::size_t>(arrays.seqlen), kPad);
  }
  write_arrays(path, arrays);
}

void write_calibration(const fs::path& path, std::int64_t samples, std::int64_t seqlen, std::int64_t vocab,
                       std::uint64_t seed, bool ragged, Padding padding) {
  const bool masked = padding == Padding::masked_left;
  Random random(seed);
  std::vector<std::int32_t> mask(masked ? static_cast<std::size_t>(samples * seqlen) : 0, 0);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(samples * seqlen), kPad);
  std::vector<std::int32_t> lengths(static_cast<std::size_t>(samples));
  for (std::int64_t s = 0; s < samples; ++s) {
    const std::int64_t least = std::max<std::int64_t>(1, seqlen / 2);
    const std::int64_t length = ragged ? least + random.below(seqlen - least + 1) : seqlen;
    const std::int64_t first = s * seqlen + (masked ? seqlen - length : 0);
    lengths[static_cast<std::size_t>(s)] = static_cast<std::int32_t>(masked ? seqlen : length);
    draw_sample(ids.data() + first, length, vocab, random);
    if (masked) std::fill_n(mask.begin() + first, length, 1);
  }
  write_arrays(path, {seqlen, vocab, static_cast<std::int64_t>(seed), ragged ? "rows" : "windows",
                      std::move(ids), std::move(lengths), std::move(mask)});
}

}  // namespace gptq::test
