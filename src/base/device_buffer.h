#pragma once

#include <cstddef>
#include <utility>

namespace gptq {

/// Uninitialised memory of a backend, given back with this object. Move-only; must not outlive its backend.
class DeviceBuffer {
 public:
  /// Gives `data` back to `owner`.
  using Release = void (*)(void* owner, std::byte* data, std::size_t bytes);

  DeviceBuffer() = default;
  DeviceBuffer(std::byte* data, std::size_t bytes, void* owner, Release release)
      : data_(data), bytes_(bytes), owner_(owner), release_(release) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    DeviceBuffer(std::move(other)).swap(*this);
    return *this;
  }
  ~DeviceBuffer() {
    if (data_ != nullptr) release_(owner_, data_, bytes_);
  }

  std::byte* data() const { return data_; }
  std::size_t size() const { return bytes_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  void swap(DeviceBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(owner_, other.owner_);
    std::swap(release_, other.release_);
  }

  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  void* owner_ = nullptr;
  Release release_ = nullptr;
};

}  // namespace gptq
