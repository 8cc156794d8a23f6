#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace gptq {

/// Uninitialised host memory aligned to 64 bytes. Move-only.
class HostBuffer {
 public:
  HostBuffer() = default;
  explicit HostBuffer(std::size_t bytes);
  HostBuffer(HostBuffer&& other) noexcept;
  HostBuffer& operator=(HostBuffer&& other) noexcept;

  std::byte* data() const { return data_; }
  std::size_t size() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* pointer) const;
  };
  std::unique_ptr<std::byte[], Free> memory_;
  std::byte* data_ = nullptr;  ///< the first aligned byte of memory_
  std::size_t bytes_ = 0;
};

/// A borrowed row-major matrix; element (r, c) lies at data + (r * stride + c) * size_of(dtype).
/// The memory belongs to a Backend's space (for the CPU backend: host memory).
struct Matrix {
  void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;  ///< elements between rows, >= cols

  template <typename T>
  T* row(std::int64_t r) const {
    return static_cast<T*>(data) + r * stride;
  }
  /// Rows [first, first + count) of this matrix.
  Matrix rows_from(std::int64_t first, std::int64_t count) const {
    return {static_cast<std::byte*>(data) + static_cast<std::size_t>(first * stride) * size_of(dtype), dtype,
            count, cols, stride};
  }
  /// Columns [first, first + count) of this matrix.
  Matrix cols_from(std::int64_t first, std::int64_t count) const {
    return {static_cast<std::byte*>(data) + static_cast<std::size_t>(first) * size_of(dtype), dtype, rows,
            count, stride};
  }
};

/// A tensor owned in host memory, as read from a file.
struct HostTensor {
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  HostBuffer storage;

  std::int64_t elements() const;
  /// The tensor as (shape[0], product of the rest); a vector is one row.
  Matrix matrix() const;
};

/// Makes an owned, uninitialised tensor.
HostTensor make_tensor(DType dtype, std::vector<std::int64_t> shape);
/// A copy in another floating type (f32, f16, bf16); rounding to nearest even.
HostTensor convert(const HostTensor& tensor, DType dtype);

}  // namespace gptq
