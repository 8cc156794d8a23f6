#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/tensor.h"
#include "model/safetensors_reader.h"

namespace gptq {

/// Writes one safetensors file whose tensors' names, types and shapes are known beforehand, in any order of arrival.
/// The data appears under `path` only after finish(): until then it lies in `path` + ".partial".
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, std::vector<std::pair<std::string, TensorInfo>> tensors);
  ~SafetensorsWriter();  ///< without finish(): removes the partial file
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  void write(const std::string& name, const HostTensor& tensor);  ///< each tensor once; shape and dtype must agree
  bool complete() const;  ///< every tensor was written
  /// fsync, rename, fsync of the directory. Returns the file's SHA-256.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace gptq
