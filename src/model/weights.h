#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "model/block_layout.h"

namespace gptq {

class ModelRotation;
struct RotationRounding;
class SafetensorsReader;

/// The tensors of one block by their name inside it ("self_attn.q_proj.weight"), in the file's dtype.
struct BlockWeights {
  std::int64_t block = 0;
  std::map<std::string, HostTensor> tensors;

  const HostTensor& at(const std::string& name) const;  ///< throws InputError naming block and tensor
};

/// The family's row with names as these files spell them: some leave the base prefix away, or have another
/// name for the head.
Architecture architecture_in(const SafetensorsReader& files, const ModelConfig& config);

/// A linear's weight (rows, cols) in host memory with rows and columns exchanged.
HostTensor transposed(const HostTensor& weight);

/// A model's weights on disk, brought into memory when asked for. GPTQ-quantized linears are dequantized on
/// the way (to f32: scale · (code − zero)), so that a quantized model reads like any other.
class ModelWeights {
 public:
  explicit ModelWeights(const std::filesystem::path& model_directory);
  ~ModelWeights();

  /// From now on this is the model in rotated form, whose head is its own: every load gives turned tensors,
  /// and config() says what the output's config.json will. Throws UsageError where that does not fit.
  void rotate(RotationRounding rounding);
  const ModelRotation* rotation() const { return rotation_.get(); }  ///< null: the model is as in its files

  const ModelConfig& config() const { return config_; }
  /// The family's row, with the names that these files use.
  const Architecture& architecture() const { return architecture_; }
  const BlockLayout& layout(std::int64_t block) const { return layouts_.at(static_cast<std::size_t>(block)); }
  const SafetensorsReader& files() const { return *reader_; }

  /// Every tensor is present with the shape that config.json implies; reads headers only. Throws one
  /// InputError that lists all mistakes (at most 20).
  void check() const;

  /// Reads the tensors outside the blocks once, so that a NaN in one of them is found before the work, not
  /// after.
  void check_values_outside_blocks() const;

  /// Throws InputError if a tensor holds NaN or infinity (named with its block).
  BlockWeights load_block(std::int64_t block) const;
  HostTensor load_embedding() const;   ///< (vocab, hidden)
  HostTensor load_final_norm() const;  ///< its weight (hidden)
  /// (vocab, hidden); the embedding where they are tied; dequantized where it is packed
  HostTensor load_head() const;
  /// A tensor of outside_tensors(), or the head's weight, by its full name.
  HostTensor load_outside_blocks(const std::string& name) const;

  /// The tensor in the files from which the head is made: the embedding where the files tie them.
  std::string head_source() const;

 private:
  HostTensor load(const std::string& name) const;
  HostTensor load_linear(const std::string& module, bool transposed) const;

  std::filesystem::path directory_;
  ModelConfig config_;
  std::unique_ptr<SafetensorsReader> reader_;
  Architecture architecture_;
  std::vector<BlockLayout> layouts_;  ///< of each block
  bool files_tie_head_;
  std::unique_ptr<ModelRotation> rotation_;
};

}  // namespace gptq
