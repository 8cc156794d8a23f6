#pragma once

#include <cstddef>
#include <filesystem>

#include "backend/backend.h"

namespace gptq {

/// Where the activations of a rank's samples lie between two steps.
enum class Place { device, host, disk };

const char* name_of(Place place);

/// One large array of a rank in the place that the plan chose. `device`: the backend's memory; `host`: pinned
/// host memory; `disk`: a mapped file without a name, which goes with the process. For a backend that
/// computes in host memory, the first two are one.
class RowStore {
 public:
  RowStore() = default;
  /// spill: directory of the file, for `disk`. Throws IoError if it cannot be made or the disk is too full,
  /// DeviceError where the device's memory does not suffice.
  RowStore(Backend& backend, std::size_t bytes, Place place, const std::filesystem::path& spill);

  std::size_t size() const { return memory_.size(); }
  /// In the backend's memory (`resident`) or the host's.
  std::byte* data() const { return memory_.data(); }
  /// Kernels can use data() as it is.
  bool resident() const { return resident_; }

  void read(std::size_t offset, void* to_host, std::size_t bytes) const;
  void write(std::size_t offset, const void* from_host, std::size_t bytes);
  /// A copy in the same place.
  RowStore copy() const;
  void copy_from(const RowStore& other);

 private:
  Backend* backend_ = nullptr;
  Place place_ = Place::device;
  std::filesystem::path spill_;
  bool resident_ = true;
  DeviceBuffer memory_;
};

}  // namespace gptq
