#include "model/weights.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>

#include "base/error.h"
#include "model/model_rotation.h"
#include "model/packed_linear.h"
#include "model/safetensors_reader.h"

namespace gptq {
namespace {

constexpr std::size_t kMostMistakes = 20;

bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

using Shape = std::vector<std::int64_t>;

/// Collects what is wrong with the tensors of a model.
class Checker {
 public:
  explicit Checker(const SafetensorsReader& reader) : reader_(reader) {}

  void tensor(const std::string& name, const Shape& shape) {
    if (!reader_.contains(name)) return add(fmt::format("{} is missing", name));
    const TensorInfo& info = reader_.info(name);
    if (info.shape != shape) {
      add(fmt::format("{} in {} has shape ({}), but config.json implies ({})", name, info.file,
                      fmt::join(info.shape, ", "), fmt::join(shape, ", ")));
    } else if (!is_float(info.dtype)) {
      add(fmt::format("{} in {} has type {}; F32, F16 or BF16 is needed", name, info.file,
                      name_of(info.dtype)));
    }
  }

  void linear(const std::string& module, const LinearShape& shape, const ModelConfig::Quantized& quantized) {
    if (!reader_.contains(module + ".weight") && is_packed_linear(reader_, module)) {
      for (std::string& mistake : packed_linear_mistakes(reader_, module, shape, quantized))
        add(std::move(mistake));
    } else {
      tensor(module + ".weight", shape.stored_shape());
    }
    if (shape.bias) tensor(module + ".bias", {shape.out_features});
  }

  void finish(const std::filesystem::path& directory) const {
    if (count_ == 0) return;
    const std::string more =
        count_ > mistakes_.size() ? fmt::format("\n  ... and {} more", count_ - mistakes_.size()) : "";
    throw InputError("{}: the weights do not fit config.json:\n  {}{}", directory.string(),
                     fmt::join(mistakes_, "\n  "), more);
  }

 private:
  void add(std::string mistake) {
    ++count_;
    if (mistakes_.size() < kMostMistakes) mistakes_.push_back(std::move(mistake));
  }

  const SafetensorsReader& reader_;
  std::vector<std::string> mistakes_;
  std::size_t count_ = 0;
};

/// Largest magnitude as bits; NaN and infinity have all exponent bits set.
template <typename T>
T largest_magnitude(const T* values, std::int64_t count) {
  constexpr T kMagnitude = static_cast<T>(~(T{1} << (sizeof(T) * 8 - 1)));
  T largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const T magnitude = values[i] & kMagnitude;
    largest = largest < magnitude ? magnitude : largest;
  }
  return largest;
}

bool is_finite(const HostTensor& tensor) {
  const std::byte* data = tensor.storage.data();
  const std::int64_t count = tensor.elements();
  switch (tensor.dtype) {
    case DType::f32:
      return largest_magnitude(reinterpret_cast<const std::uint32_t*>(data), count) < 0x7f800000u;
    case DType::bf16:
      return largest_magnitude(reinterpret_cast<const std::uint16_t*>(data), count) < 0x7f80u;
    case DType::f16:
      return largest_magnitude(reinterpret_cast<const std::uint16_t*>(data), count) < 0x7c00u;
    default:
      return true;
  }
}

std::string weight_of(std::string_view module) {
  return std::string(module) + ".weight";
}

void require_finite(const HostTensor& tensor, const std::string& name, const SafetensorsReader& reader,
                    const std::string& where) {
  if (is_finite(tensor)) return;
  throw InputError(
      "{} ({}) of {} holds NaN or infinity: the model file is damaged or was saved after a failed "
      "training; fetch it again",
      name, where, reader.directory().string());
}

std::string_view without(std::string_view prefix, std::string_view name) {
  return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

template <typename T>
void exchange(const HostTensor& from, HostTensor& to) {
  const std::int64_t rows = from.shape[0], cols = from.shape[1];
  const auto* const source = reinterpret_cast<const T*>(from.storage.data());
  auto* const target = reinterpret_cast<T*>(to.storage.data());
  constexpr std::int64_t kTile = 32;  // a cache line of either
  for (std::int64_t r0 = 0; r0 < rows; r0 += kTile) {
    for (std::int64_t c0 = 0; c0 < cols; c0 += kTile) {
      for (std::int64_t r = r0; r < std::min(rows, r0 + kTile); ++r) {
        for (std::int64_t c = c0; c < std::min(cols, c0 + kTile); ++c)
          target[c * rows + r] = source[r * cols + c];
      }
    }
  }
}

}  // namespace

Architecture architecture_in(const SafetensorsReader& files, const ModelConfig& config) {
  Architecture names = find_architecture(config.model_type);
  const std::string_view prefix = names.base_prefix;
  if (!prefix.empty() && !files.contains(weight_of(names.embedding)) &&
      files.contains(weight_of(without(prefix, names.embedding)))) {
    for (std::string_view* name : {&names.block_prefix, &names.embedding, &names.position_embedding,
                                   &names.embedding_norm, &names.final_norm}) {
      *name = without(prefix, *name);
    }
  }
  const auto has = [&](std::string_view module) {
    return files.contains(weight_of(module)) || is_packed_linear(files, std::string(module));
  };
  if (!names.other_head.empty() && !has(names.head) && has(names.other_head)) names.head = names.other_head;
  return names;
}

HostTensor transposed(const HostTensor& weight) {
  HostTensor result = make_tensor(weight.dtype, {weight.shape[1], weight.shape[0]});
  if (size_of(weight.dtype) == 4) {
    exchange<std::uint32_t>(weight, result);
  } else {
    GPTQ_EXPECT(size_of(weight.dtype) == 2);
    exchange<std::uint16_t>(weight, result);
  }
  return result;
}

const HostTensor& BlockWeights::at(const std::string& name) const {
  const auto found = tensors.find(name);
  if (found == tensors.end()) throw InputError("block {} has no tensor {}", block, name);
  return found->second;
}

ModelWeights::ModelWeights(const std::filesystem::path& model_directory)
    : directory_(model_directory),
      config_(read_model_config(model_directory)),
      reader_(std::make_unique<SafetensorsReader>(model_directory)),
      architecture_(architecture_in(*reader_, config_)),
      files_tie_head_(config_.tie_word_embeddings) {
  for (std::int64_t block = 0; block < config_.num_hidden_layers; ++block)
    layouts_.push_back(make_layout(architecture_, config_, block));
}

ModelWeights::~ModelWeights() = default;

void ModelWeights::rotate(RotationRounding rounding) {
  GPTQ_EXPECT(rotation_ == nullptr);
  rotation_ = std::make_unique<ModelRotation>(config_, architecture_, *reader_, std::move(rounding));
  config_.tie_word_embeddings = false;
}

void ModelWeights::check() const {
  Checker checker(*reader_);
  const LinearShape head = head_shape(architecture_, config_);
  for (const TensorShape& tensor : outside_tensors(architecture_, config_))
    checker.tensor(tensor.name, tensor.shape);
  if (!files_tie_head_) checker.linear(head.name, head, config_.quantized);
  for (std::int64_t block = 0; block < config_.num_hidden_layers; ++block) {
    const std::string prefix = block_prefix(architecture_, block);
    for (const TensorShape& norm : layout(block).norms) checker.tensor(prefix + norm.name, norm.shape);
    for (const LinearShape& layer : layout(block).layers())
      checker.linear(prefix + layer.name, layer, config_.quantized);
  }
  checker.finish(directory_);
}

HostTensor ModelWeights::load(const std::string& name) const {
  HostTensor tensor = reader_->read(name);
  require_finite(tensor, name, *reader_, reader_->info(name).file);
  return tensor;
}

HostTensor ModelWeights::load_linear(const std::string& module, bool is_transposed) const {
  const std::string name = module + ".weight";
  if (reader_->contains(name) || !is_packed_linear(*reader_, module))
    return is_transposed ? transposed(load(name)) : load(name);
  HostTensor tensor = load_packed_linear(*reader_, module, config_.quantized);
  require_finite(tensor, name, *reader_, "dequantized");
  return tensor;
}

BlockWeights ModelWeights::load_block(std::int64_t block) const {
  GPTQ_EXPECT(block >= 0 && block < config_.num_hidden_layers);
  const std::string prefix = block_prefix(architecture_, block);
  BlockWeights result;
  result.block = block;
  const auto take = [&](const std::string& module, const std::string& suffix, HostTensor tensor) {
    result.tensors.emplace(module + suffix, std::move(tensor));
  };
  try {
    for (const TensorShape& norm : layout(block).norms) take(norm.name, "", load(prefix + norm.name));
    for (const LinearShape& layer : layout(block).layers()) {
      take(layer.name, ".weight", load_linear(prefix + layer.name, layer.transposed));
      if (layer.bias) take(layer.name, ".bias", load(prefix + layer.name + ".bias"));
    }
    if (rotation_ != nullptr) rotation_->turn(result);
  } catch (const InputError& error) {
    throw InputError("block {}: {}", block, error.what());
  }
  return result;
}

void ModelWeights::check_values_outside_blocks() const {
  for (const TensorShape& tensor : outside_tensors(architecture_, config_)) load(tensor.name);
  if (!files_tie_head_) load(head_source());
}

HostTensor ModelWeights::load_embedding() const {
  HostTensor table = load(weight_of(architecture_.embedding));
  return rotation_ == nullptr ? std::move(table) : rotation_->turned_embedding(std::move(table));
}

HostTensor ModelWeights::load_final_norm() const {
  HostTensor norm = load(weight_of(architecture_.final_norm));
  return rotation_ == nullptr ? std::move(norm) : ModelRotation::folded_norm(std::move(norm));
}

HostTensor ModelWeights::load_head() const {
  const std::string_view module = files_tie_head_ ? architecture_.embedding : architecture_.head;
  HostTensor table = load_linear(std::string(module), false);
  if (rotation_ == nullptr) return table;
  return rotation_->turned_head(std::move(table), load(weight_of(architecture_.final_norm)));
}

HostTensor ModelWeights::load_outside_blocks(const std::string& name) const {
  if (name == weight_of(architecture_.embedding)) return load_embedding();
  if (name == weight_of(architecture_.final_norm)) return load_final_norm();
  return name == weight_of(architecture_.head) ? load_head() : load(name);
}

std::string ModelWeights::head_source() const {
  return weight_of(files_tie_head_ ? architecture_.embedding : architecture_.head);
}

}  // namespace gptq
