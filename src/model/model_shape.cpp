#include "model/model_shape.h"

#include <algorithm>

#include "base/error.h"
#include "model/expert_model.h"
#include "model/source_tensors.h"

namespace gptq {
namespace {

std::int64_t elements_of(const std::vector<std::int64_t>& shape) {
  std::int64_t elements = 1;
  for (const std::int64_t size : shape) elements *= size;
  return elements;
}

std::int64_t elements_of(const std::vector<TensorShape>& tensors) {
  std::int64_t elements = 0;
  for (const TensorShape& tensor : tensors) elements += elements_of(tensor.shape);
  return elements;
}

/// Scales of an fp8 weight, as far as config.json tells: of its blocks, else one a row.
std::int64_t scales_of(const LinearShape& layer, const Fp8Config& fp8) {
  if (fp8.blocks.empty()) return layer.out_features;
  const Fp8Block& block = fp8.blocks.front();
  return (layer.out_features + block.rows - 1) / block.rows * ((layer.in_features + block.cols - 1) / block.cols);
}

}  // namespace

ModelShape::ModelShape(const ModelWeights& model)
    : directory_(model.files().directory()),
      config_(model.config()),
      architecture_(model.architecture()),
      has_weights_(true),
      rotated_(model.rotation() != nullptr),
      has_head_(model.tensors().contains(std::string(architecture_.head) + ".weight")) {
  describe_dense();
  for (const auto& [name, info] : model.files().tensors()) {
    if (!is_dropped(architecture_, name)) source_bytes_ += static_cast<std::int64_t>(info.bytes);
  }
  for (const auto& [name, info] : model.tensors().all()) {
    if (!is_dropped(architecture_, name)) ordinary_bytes_ += static_cast<std::int64_t>(info.bytes);
  }
  if (model.tensors().contains(model.head_source()))
    head_bytes_ = static_cast<std::int64_t>(model.tensors().info(model.head_source()).bytes);
  for (std::int64_t block = 0; block < config_.num_hidden_layers; ++block) {
    for (const LinearShape& layer : layout(block).layers())
      note_layer(model.tensors(), block_prefix(architecture_, block) + layer.name);
  }
}

void ModelShape::note_layer(const SourceTensors& tensors, const std::string& module) {
  const std::string weight = module + ".weight";
  if (!tensors.contains(weight)) return;
  const DType dtype = tensors.info(weight).dtype;
  if (dtype != config_.dtype) dtypes_[module] = dtype;
  if (tensors.is_decoded(weight)) stored_[module] = static_cast<std::int64_t>(tensors.stored_bytes(weight));
}

ModelShape::ModelShape(const std::filesystem::path& model_directory, bool rotated)
    : directory_(model_directory), rotated_(rotated) {
  if (std::optional<ExpertModel> experts = read_expert_model(model_directory)) {
    if (rotated) {
      throw UsageError("quantization.rotation: {} models cannot be turned; set it to none",
                       experts->config.model_type);
    }
    quantizable_ = false;
    config_ = std::move(experts->config);
    architecture_ = experts->architecture;
    layouts_ = std::move(experts->layouts);
    experts_ = experts->experts;
    experts_per_token_ = experts->experts_per_token;
    flops_of_pair_ = 2 * static_cast<double>(config_.num_attention_heads *
                                             (experts->key_features + experts->value_features));
    query_key_columns_ = (config_.num_attention_heads + config_.num_key_value_heads) * experts->key_features;
  } else {
    config_ = read_model_config(model_directory);
    architecture_ = find_architecture(config_.model_type);
    describe_dense();
  }
  has_head_ = !config_.tie_word_embeddings;
  add_up_source();
  if (rotated) config_.tie_word_embeddings = false;
}

void ModelShape::describe_dense() {
  for (std::int64_t block = 0; block < config_.num_hidden_layers; ++block)
    layouts_.push_back(make_layout(architecture_, config_, block));
  flops_of_pair_ = 4 * static_cast<double>(config_.num_attention_heads * config_.head_dim);
  query_key_columns_ = (config_.num_attention_heads + config_.num_key_value_heads) * config_.head_dim;
}

std::int64_t ModelShape::experts_of(const StageGroup& group) const {
  return group.name == kExpertsIn || group.name == kExpertsOut ? experts_ : 0;
}

std::int64_t ModelShape::parameters() const {
  const std::int64_t table = config_.vocab_size * config_.hidden_size;
  std::int64_t elements = elements_of(outside_tensors(architecture_, config_)) + (has_head_ ? table : 0);
  for (const BlockLayout& block : layouts_) {
    elements += elements_of(block.norms);
    for (const BlockStep& step : block.steps) {
      for (const StageGroup& group : step.groups) {
        for (const LinearShape& layer : group.layers)
          elements += std::max<std::int64_t>(1, experts_of(group)) * layer.out_features *
                      (layer.in_features + (layer.bias ? 1 : 0));
      }
    }
  }
  return elements;
}

/// What the files would hold, every tensor in the type that config.json names.
void ModelShape::add_up_source() {
  const auto element = static_cast<std::int64_t>(size_of(config_.dtype));
  source_bytes_ = ordinary_bytes_ = element * parameters();
  head_bytes_ = element * config_.vocab_size * config_.hidden_size;
  if (!config_.fp8.present) return;
  for (const BlockLayout& block : layouts_) {
    for (const BlockStep& step : block.steps) {
      for (const StageGroup& group : step.groups) {
        for (const LinearShape& layer : group.layers) {
          source_bytes_ += std::max<std::int64_t>(1, experts_of(group)) *
                           (stored_bytes("", layer) - element * layer.out_features * layer.in_features);
        }
      }
    }
  }
}

DType ModelShape::dtype_of(const std::string& module) const {
  const auto found = dtypes_.find(module);
  return found == dtypes_.end() ? config_.dtype : found->second;
}

std::int64_t ModelShape::stored_bytes(const std::string& module, const LinearShape& layer) const {
  if (!has_weights_ && config_.fp8.present)
    return layer.out_features * layer.in_features + 4 * scales_of(layer, config_.fp8);
  const auto found = stored_.find(module);
  return found == stored_.end() ? ordinary_bytes(module, layer) : found->second;
}

std::int64_t ModelShape::ordinary_bytes(const std::string& module, const LinearShape& layer) const {
  return layer.out_features * layer.in_features * static_cast<std::int64_t>(size_of(dtype_of(module)));
}

std::int64_t ModelShape::untied_head_bytes() const {
  return config_.tie_word_embeddings || has_head_ ? 0 : head_bytes_;
}

bool has_weight_files(const std::filesystem::path& model_directory) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(model_directory, error)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")) return true;
  }
  return false;
}

}  // namespace gptq
