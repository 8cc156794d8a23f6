#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/tensor.h"

namespace gptq {

/// Where a tensor lies.
struct TensorInfo {
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::string file;          ///< file name inside the model directory
  std::uint64_t offset = 0;  ///< from the file's start
  std::uint64_t bytes = 0;
};

/// The checked header of one safetensors file. Throws InputError naming the file and tensor: length out of
/// bounds, broken JSON, unknown type, offsets that overlap, leave holes or lie outside, a truncated file (by
/// how many bytes).
std::map<std::string, TensorInfo> read_safetensors_header(const std::filesystem::path& file);

/// A model directory's safetensors: model.safetensors, or the files of model.safetensors.index.json (the
/// former wins, as in transformers). Headers are read and checked at construction (lengths, overlaps,
/// truncation, path traversal); data on demand. Reading is thread-safe.
class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::filesystem::path& model_directory);

  bool contains(const std::string& name) const { return tensors_.contains(name); }
  const TensorInfo& info(const std::string& name) const;  ///< throws InputError with the nearest name
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  HostTensor read(const std::string& name) const;
  /// The tensor's bytes, as many as info() says.
  void read_into(const std::string& name, std::byte* to) const;
  const std::filesystem::path& directory() const { return directory_; }

 private:
  void read_index(const std::filesystem::path& index);
  void read_header(const std::string& file);
  std::filesystem::path directory_;
  std::map<std::string, TensorInfo> tensors_;
};

}  // namespace gptq
