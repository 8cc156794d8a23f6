#pragma once

#include <cstddef>
#include <cstdint>

namespace gptq::test {

/// Zeros that take memory where they are written only (page by page): for index arithmetic on arrays larger
/// than the machine.
class SparseMemory {
 public:
  explicit SparseMemory(std::size_t bytes);
  ~SparseMemory();
  SparseMemory(const SparseMemory&) = delete;
  SparseMemory& operator=(const SparseMemory&) = delete;

  template <typename T>
  T* as() const {
    return static_cast<T*>(memory_);
  }

 protected:
  SparseMemory() = default;
  void* memory_ = nullptr;
  std::size_t bytes_ = 0;
};

/// The same few megabytes over and over: a write shows in every copy.
class RepeatedMemory : public SparseMemory {
 public:
  static constexpr std::size_t kPiece = std::size_t{16} << 20;

  /// Every 64-bit integer is `value`. bytes are rounded up to whole pieces.
  RepeatedMemory(std::size_t bytes, std::int64_t value);
};

/// Zeros in a file under $TMPDIR that nobody else sees: the system may put them on disk when memory is short.
class FileMemory : public SparseMemory {
 public:
  explicit FileMemory(std::size_t bytes);
};

/// GPTQ_HPC_WIDE=1 in the environment: tests may take minutes and many gigabytes.
bool wide_tests_wanted();
/// A whole number in the environment, or `otherwise`.
std::int64_t environment_number(const char* name, std::int64_t otherwise);

}  // namespace gptq::test
