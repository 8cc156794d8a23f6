#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"

namespace gptq {

/// Values between ranks of one job, in the machine's own (little-endian) layout; vectors carry their length.
class ByteWriter {
 public:
  template <typename T>
  void value(const T& item) {
    static_assert(std::is_trivially_copyable_v<T>);
    append(&item, sizeof(T));
  }
  template <typename T>
  void vector(const std::vector<T>& items) {
    static_assert(std::is_trivially_copyable_v<T>);
    value(static_cast<std::int64_t>(items.size()));
    append(items.data(), items.size() * sizeof(T));
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  void append(const void* data, std::size_t count) {
    const auto* first = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), first, first + count);
  }

  std::vector<std::byte> bytes_;
};

/// Reads what ByteWriter wrote, in the same order. Bytes that are too few, too many or of absurd length are
/// an internal error: they never come from a user.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <typename T>
  T value() {
    T item;
    extract(&item, sizeof(T));
    return item;
  }
  template <typename T>
  std::vector<T> vector() {
    const auto count = value<std::int64_t>();
    GPTQ_EXPECT(count >= 0 && static_cast<std::size_t>(count) <= rest_.size() / sizeof(T));
    std::vector<T> items(static_cast<std::size_t>(count));
    extract(items.data(), items.size() * sizeof(T));
    return items;
  }
  void expect_end() const { GPTQ_EXPECT(rest_.empty()); }

 private:
  void extract(void* target, std::size_t count) {
    GPTQ_EXPECT(count <= rest_.size());
    if (count > 0) std::memcpy(target, rest_.data(), count);
    rest_ = rest_.subspan(count);
  }

  std::span<const std::byte> rest_;
};

}  // namespace gptq
