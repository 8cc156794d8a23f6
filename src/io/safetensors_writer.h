#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/tensor.h"
#include "model/safetensors_reader.h"

namespace gptq {

/// Writes one safetensors file whose tensors' names, types and shapes are known beforehand, in any order of
/// arrival. The data appears under `path` only after finish(): until then it lies in `path` + ".partial". The
/// room on disk is claimed at construction. Errors of the file system are IoErrors that name the file and
/// what to do.
class SafetensorsWriter {
 public:
  /// Of the TensorInfo only dtype and shape count. Tensors lie in the file by falling element size (so that
  /// each is aligned for its type), otherwise in the given order.
  SafetensorsWriter(const std::filesystem::path& path,
                    std::vector<std::pair<std::string, TensorInfo>> tensors);
  ~SafetensorsWriter();  ///< without finish(): removes the partial file
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  void write(const std::string& name,
             const HostTensor& tensor);  ///< each tensor once; shape and dtype must agree
  /// The tensor of this name in another model, as it is, piece by piece: needs no memory of its size.
  void copy(const std::string& name, const SafetensorsReader& source);
  bool complete() const;        ///< every tensor was written
  std::uint64_t bytes() const;  ///< of the finished file
  /// fsync, rename, fsync of the directory. Returns the file's SHA-256, taken from what the file system gives
  /// back.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Bytes of the file that SafetensorsWriter would make of these tensors.
std::uint64_t safetensors_file_bytes(const std::vector<std::pair<std::string, TensorInfo>>& tensors);

}  // namespace gptq
