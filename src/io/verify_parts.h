#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "io/verify.h"
#include "model/safetensors_reader.h"
#include "model/weights.h"

namespace gptq {

/// What `verify` looks at, read once. Private to src/io.
struct OutputModel {
  /// dequantized: the manifest says that the model is an ordinary one.
  OutputModel(const std::filesystem::path& directory, bool dequantized);

  SafetensorsReader files;
  ModelConfig config;
  Architecture architecture;
  std::vector<BlockLayout> layouts;  ///< of each block
  bool dequantized;

  bool is_quantized(const std::string& module) const { return files.contains(module + ".qweight"); }
  QuantizedForm form_of(const std::string& module) const { return config.quantized.form_of(module); }
};

/// Groups of a module's input columns.
std::int64_t groups_of(const QuantizedForm& form, std::int64_t in_features);

/// Manifest, sizes, hashes; files that do not belong; both copies of the quantization config (none for a
/// dequantized model); the index. Returns whether the manifest says that the model is dequantized.
bool verify_files(const std::filesystem::path& directory, VerifyResult& result);
/// Names, types and shapes of all tensors; then every quantized module unpacked.
void verify_tensors(const OutputModel& model, VerifyResult& result);
/// Notes on kernels and tensor-parallel degrees of known loaders.
void note_loader_limits(const OutputModel& model, VerifyResult& result);

}  // namespace gptq
