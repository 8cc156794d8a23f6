#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/sha256.h"
#include "base/tensor.h"
#include "model/safetensors_reader.h"

namespace gptq {

/// The bytes of a safetensors file that follow from names, types and shapes alone.
struct SafetensorsLayout {
  std::string header;                                       ///< the file's beginning, its length included
  std::vector<std::pair<std::string, TensorInfo>> tensors;  ///< in the file's order, with offset and bytes
  std::uint64_t bytes = 0;                                  ///< of the whole file
};

/// Of each TensorInfo only dtype and shape count. Tensors lie in the file by falling element size (so that
/// each is aligned for its type), otherwise in the given order.
SafetensorsLayout lay_out_safetensors(std::vector<std::pair<std::string, TensorInfo>> tensors);

/// Where a file in the making lies.
std::filesystem::path partial_path(const std::filesystem::path& path);
/// The file that an earlier attempt left, finished or not; nothing if there is none.
std::optional<std::filesystem::path> earlier_attempt(const std::filesystem::path& path);
/// Why this file is none of this layout, in words that follow its name; nothing if size and header fit.
std::optional<std::string> damage_in_frame(const std::filesystem::path& file,
                                           const SafetensorsLayout& layout);

/// The file that an earlier attempt left and that fits the layout; throws IoError if it is missing or does
/// not.
std::filesystem::path require_frame(const std::filesystem::path& path, const SafetensorsLayout& layout);

/// Writes one safetensors file whose tensors' names, types and shapes are known beforehand, in any order of
/// arrival. The data appears under `path` only after finish(): until then it lies in `path` + ".partial". The
/// room on disk is claimed at construction. Errors of the file system are IoErrors that name the file and
/// what to do.
class SafetensorsWriter {
 public:
  /// A new file, in place of any partial one.
  SafetensorsWriter(const std::filesystem::path& path,
                    std::vector<std::pair<std::string, TensorInfo>> tensors);
  /// Goes on with the file of an earlier attempt, in which the tensors `written` are good; a file that was
  /// finished becomes partial again. What does not fit by size or header is an IoError and stays as it is.
  SafetensorsWriter(const std::filesystem::path& path,
                    std::vector<std::pair<std::string, TensorInfo>> tensors,
                    const std::vector<std::string>& written);
  /// For another process than the one that made the file and will finish it: writes some of the tensors, and
  /// leaves the file where it is. Throws IoError if the file in the making is not there or has another frame.
  static std::unique_ptr<SafetensorsWriter> join(const std::filesystem::path& path,
                                                 std::vector<std::pair<std::string, TensorInfo>> tensors);
  ~SafetensorsWriter();  ///< without finish() or keep_partial(): removes the partial file
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// Each tensor once; shape and dtype must agree.
  void write(const std::string& name, const HostTensor& tensor);
  /// The tensor of this name in another model, as it is, piece by piece: needs no memory of its size. Adds
  /// its bytes to the hash, if there is one.
  void copy(const std::string& name, const SafetensorsReader& source, Sha256* hash = nullptr);
  /// Another process has written and synced these.
  void written_elsewhere(const std::vector<std::string>& names);
  bool complete() const;        ///< every tensor was written
  std::uint64_t bytes() const;  ///< of the finished file
  void sync();                  ///< what was written is on disk; the name's entry is the directory's affair
  void keep_partial();          ///< the destructor leaves the partial file for a later attempt
  /// fsync, rename, fsync of the directory. Returns the file's SHA-256, taken from what the file system gives
  /// back.
  std::string finish();

 private:
  struct State;
  explicit SafetensorsWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Bytes of the file that SafetensorsWriter would make of these tensors.
std::uint64_t safetensors_file_bytes(const std::vector<std::pair<std::string, TensorInfo>>& tensors);

}  // namespace gptq
