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

/// A model directory's safetensors: model.safetensors, or the files of model.safetensors.index.json.
/// Headers are read and checked at construction (lengths, overlaps, truncation, path traversal); data on demand.
class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::filesystem::path& model_directory);

  bool contains(const std::string& name) const { return tensors_.contains(name); }
  const TensorInfo& info(const std::string& name) const;  ///< throws InputError with the nearest names
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  HostTensor read(const std::string& name) const;
  const std::filesystem::path& directory() const { return directory_; }

 private:
  void read_header(const std::string& file);
  std::filesystem::path directory_;
  std::map<std::string, TensorInfo> tensors_;
};

}  // namespace gptq
