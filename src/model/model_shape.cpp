#include "model/model_shape.h"

#include "base/error.h"
#include "model/safetensors_reader.h"

namespace gptq {
namespace {

/// Of the norms of a block: elements.
std::int64_t norm_elements(const Architecture& architecture, const ModelConfig& config) {
  std::int64_t elements = 2 * config.hidden_size;
  if (!architecture.q_norm.empty()) elements += config.head_dim;
  if (!architecture.k_norm.empty()) elements += config.head_dim;
  return elements;
}

}  // namespace

ModelShape::ModelShape(const ModelWeights& model)
    : directory_(model.files().directory()),
      config_(model.config()),
      architecture_(&model.architecture()),
      groups_(model.groups()),
      has_weights_(true),
      rotated_(model.rotation() != nullptr),
      has_head_(model.files().contains(std::string(architecture_->head) + ".weight")) {
  for (const auto& [name, info] : model.files().tensors())
    source_bytes_ += static_cast<std::int64_t>(info.bytes);
  if (model.files().contains(model.head_source()))
    head_bytes_ = static_cast<std::int64_t>(model.files().info(model.head_source()).bytes);
  for (std::int64_t block = 0; block < config_.num_hidden_layers; ++block) {
    const std::string prefix = block_prefix(*architecture_, block);
    for (const StageGroup& group : groups(block)) {
      for (const LinearShape& layer : group.layers) {
        const std::string weight = prefix + layer.name + ".weight";
        if (!model.files().contains(weight)) continue;
        const DType dtype = model.files().info(weight).dtype;
        if (dtype != config_.dtype) dtypes_[prefix + layer.name] = dtype;
      }
    }
  }
}

ModelShape::ModelShape(const std::filesystem::path& model_directory, bool rotated)
    : directory_(model_directory),
      config_(read_model_config(model_directory)),
      architecture_(&find_architecture(config_.model_type)),
      groups_(stage_groups(*architecture_, config_)),
      rotated_(rotated),
      has_head_(!config_.tie_word_embeddings) {
  const auto element = static_cast<std::int64_t>(size_of(config_.dtype));
  const std::int64_t table = config_.vocab_size * config_.hidden_size;
  std::int64_t elements = table + (has_head_ ? table : 0) + config_.hidden_size;
  for (std::int64_t block = 0; block < config_.num_hidden_layers; ++block) {
    elements += norm_elements(*architecture_, config_);
    for (const StageGroup& group : groups(block)) {
      for (const LinearShape& layer : group.layers)
        elements += layer.out_features * (layer.in_features + (layer.bias ? 1 : 0));
    }
  }
  source_bytes_ = elements * element;
  head_bytes_ = table * element;
  if (rotated) config_.tie_word_embeddings = false;
}

const std::vector<StageGroup>& ModelShape::groups(std::int64_t block) const {
  GPTQ_EXPECT(block >= 0 && block < config_.num_hidden_layers);
  return groups_;
}

DType ModelShape::dtype_of(const std::string& module) const {
  const auto found = dtypes_.find(module);
  return found == dtypes_.end() ? config_.dtype : found->second;
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
