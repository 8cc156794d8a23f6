#pragma once

// Private to src/io (and tests that make files): no other header shows HDF5's types.
#include <hdf5.h>

#include <concepts>
#include <string>
#include <utility>

#include "base/error.h"

namespace gptq {

/// Keeps HDF5 from printing its error stack while it lives; hdf5_check puts the stack into our own message
/// instead.
class Hdf5Quiet {
 public:
  Hdf5Quiet() {
    H5Eget_auto2(H5E_DEFAULT, &print_, &data_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }
  ~Hdf5Quiet() { H5Eset_auto2(H5E_DEFAULT, print_, data_); }
  Hdf5Quiet(const Hdf5Quiet&) = delete;
  Hdf5Quiet& operator=(const Hdf5Quiet&) = delete;

 private:
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

 private:
  hid_t id_ = H5I_INVALID_HID;
};

}  // namespace gptq
