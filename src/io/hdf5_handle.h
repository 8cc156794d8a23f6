#pragma once

// Private to src/io (and tests that make files): no other header shows HDF5's types.
#include <hdf5.h>

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>
#include <utility>

#include "base/error.h"

namespace gptq {

/// Keeps HDF5 from printing its error stack while it lives; hdf5_check puts the stack into our own message
/// instead. Keeps other threads out as well: many clusters' HDF5 is built without thread safety, and
/// checkpoints are written beside the computing threads. Every use of HDF5 lies in the scope of one, as short
/// as possible.
class Hdf5Quiet {
 public:
  Hdf5Quiet() : lock_(mutex()) {
    H5Eget_auto2(H5E_DEFAULT, &print_, &data_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }
  ~Hdf5Quiet() { H5Eset_auto2(H5E_DEFAULT, print_, data_); }
  Hdf5Quiet(const Hdf5Quiet&) = delete;
  Hdf5Quiet& operator=(const Hdf5Quiet&) = delete;

 private:
  static std::recursive_mutex& mutex();

  std::lock_guard<std::recursive_mutex> lock_;
  H5E_auto2_t print_ = nullptr;
  void* data_ = nullptr;
};

/// The innermost entry of HDF5's error stack: "dataset doesn't exist".
std::string hdf5_reason();

/// Every HDF5 call goes through here; a negative result becomes an IoError: "cannot WHAT PATH: reason".
template <std::integral T>
T hdf5_check(T result, const std::string& what, const std::string& path) {
  if (result < 0) throw IoError("cannot {} {}: {}", what, path, hdf5_reason());
  return result;
}

/// Owns any hid_t; the type decides how it is closed. Move-only.
class Hdf5Handle {
 public:
  Hdf5Handle() = default;
  explicit Hdf5Handle(hid_t id) : id_(id) {}
  Hdf5Handle(Hdf5Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)) {}
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  ~Hdf5Handle();

  hid_t get() const { return id_; }
  /// What the destructor does, but a failure is an IoError: closing a file writes what HDF5 held back.
  void close(const std::string& path);

 private:
  hid_t id_ = H5I_INVALID_HID;
};

/// Opens for reading, without locks: such files never change once they have their name, and locks only fail
/// on some cluster file systems.
Hdf5Handle hdf5_open(const std::filesystem::path& path);
/// Creates or empties a file, without locks; data sets of some size start at multiples of 4 KiB.
Hdf5Handle hdf5_create(const std::filesystem::path& path);

/// Scalar attributes of a file, group or data set. Of those that are read: InputError if it is missing or of
/// another type. path: for messages.
void hdf5_write_attribute(hid_t object, const char* name, std::int64_t value, const std::string& path);
void hdf5_write_attribute(hid_t object, const char* name, const std::string& value, const std::string& path);
std::int64_t hdf5_integer_attribute(hid_t object, const char* name, const std::string& path);
std::string hdf5_text_attribute(hid_t object, const char* name, const std::string& path);

}  // namespace gptq
