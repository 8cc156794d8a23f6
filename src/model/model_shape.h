#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "model/weights.h"

namespace gptq {

/// A model as planning sees it: shapes, types and bytes, and no weights. From config.json alone every tensor
/// has the type that it names; where there are weights, their types and bytes count.
class ModelShape {
 public:
  /// Of a model with weights, rotated or not.
  ModelShape(const ModelWeights& model);  // NOLINT: a model has a shape
  /// Of a directory that may hold a config.json and nothing else. rotated: in the form that
  /// quantization.rotation gives it, where the head is untied.
  ModelShape(const std::filesystem::path& model_directory, bool rotated);

  const ModelConfig& config() const { return config_; }
  const Architecture& architecture() const { return *architecture_; }
  const std::filesystem::path& directory() const { return directory_; }
  bool has_weights() const { return has_weights_; }
  bool rotated() const { return rotated_; }

  /// The stage groups of a block. (All blocks are alike in today's families.)
  const std::vector<StageGroup>& groups(std::int64_t block) const;
  const std::vector<StageGroup>& groups() const { return groups_; }

  DType dtype_of(const std::string& module) const;  ///< of a linear's weight in the source, by its full name
  std::int64_t source_bytes() const { return source_bytes_; }  ///< of all tensors
  std::int64_t head_bytes() const { return head_bytes_; }      ///< of what the head is made from
  /// Of a head that the output has and no tensor of the source is; 0 where there is one, or none is written.
  std::int64_t untied_head_bytes() const;

 private:
  std::filesystem::path directory_;
  ModelConfig config_;
  const Architecture* architecture_;
  std::vector<StageGroup> groups_;
  bool has_weights_ = false;
  bool rotated_ = false;
  bool has_head_ = false;                ///< the source has a tensor of the head's own
  std::map<std::string, DType> dtypes_;  ///< of the linears whose type is not config.json's
  std::int64_t source_bytes_ = 0;
  std::int64_t head_bytes_ = 0;
};

/// Whether the directory holds safetensors, and not only a config.json.
bool has_weight_files(const std::filesystem::path& model_directory);

}  // namespace gptq
