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
  const Architecture& architecture() const { return architecture_; }
  const std::filesystem::path& directory() const { return directory_; }
  bool has_weights() const { return has_weights_; }
  bool rotated() const { return rotated_; }
  /// False: a family of which this version knows the shapes alone (expert_model.h).
  bool quantizable() const { return quantizable_; }

  const BlockLayout& layout(std::int64_t block) const { return layouts_.at(static_cast<std::size_t>(block)); }
  /// 0: every token passes the group. Else its layers are those of one expert of so many, each with a Hessian
  /// of its own.
  std::int64_t experts_of(const StageGroup& group) const;
  std::int64_t experts_per_token() const { return experts_per_token_; }  ///< 0: no block has experts
  /// Of the attention of one token pair: its scores and what they weigh, 2·heads·(key + value features).
  double flops_of_pair() const { return flops_of_pair_; }
  /// Columns of q and k together, which norms and rotary embeddings go over.
  std::int64_t query_key_columns() const { return query_key_columns_; }

  DType dtype_of(const std::string& module) const;  ///< of a linear's weight in memory, by its full name
  /// Of a linear's weight in the source, with the scales of its blocks where it has them.
  std::int64_t stored_bytes(const std::string& module, const LinearShape& layer) const;
  /// Of a linear's weight as an ordinary tensor, where that in the source is decoded (SourceTensors).
  std::int64_t ordinary_bytes(const std::string& module, const LinearShape& layer) const;
  std::int64_t source_bytes() const { return source_bytes_; }  ///< of all tensors but those that are dropped
  std::int64_t ordinary_bytes() const { return ordinary_bytes_; }  ///< of the same as ordinary tensors
  std::int64_t head_bytes() const { return head_bytes_; }      ///< of what the head is made from
  /// Of a head that the output has and no tensor of the source is; 0 where there is one, or none is written.
  std::int64_t untied_head_bytes() const;
  /// Weights and biases of all tensors, by the shapes in config.json. The files of some models hold more
  /// (DeepSeek-V3's block for next tokens).
  std::int64_t parameters() const;

 private:
  void describe_dense();
  void note_layer(const SourceTensors& tensors, const std::string& module);
  void add_up_source();

  std::filesystem::path directory_;
  ModelConfig config_;
  Architecture architecture_;
  std::vector<BlockLayout> layouts_;  ///< of each block
  bool has_weights_ = false;
  bool rotated_ = false;
  bool quantizable_ = true;
  bool has_head_ = false;  ///< the source has a tensor of the head's own
  std::int64_t experts_ = 0;
  std::int64_t experts_per_token_ = 0;
  double flops_of_pair_ = 0;
  std::int64_t query_key_columns_ = 0;
  std::map<std::string, DType> dtypes_;         ///< of the linears whose type is not config.json's
  std::map<std::string, std::int64_t> stored_;  ///< bytes of the linears that are decoded
  std::int64_t source_bytes_ = 0;
  std::int64_t ordinary_bytes_ = 0;
  std::int64_t head_bytes_ = 0;
};

/// Whether the directory holds safetensors, and not only a config.json.
bool has_weight_files(const std::filesystem::path& model_directory);

}  // namespace gptq
