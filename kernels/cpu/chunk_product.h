#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/tensor.h"
#include "kernels/cpu/isa/hessian_rows.h"

/// Private to kernels/cpu: products of a chunk's columns, summed over its rows in f32, and their exact sums.
namespace gptq {

/// One factor of such products: a chunk (rows, n) with the exponents of its columns.
class ChunkColumns {
 public:
  /// Borrows x. Where a product of two columns could leave f32's range the columns are multiplied by
  /// 2^exponent before it, in a copy; else (cheaper) after.
  ChunkColumns(const Matrix& x, std::span<const int> exponents);

  std::int64_t columns() const { return columns_; }
  /// What is left to multiply the products of each column by; powers of two.
  const float* scale() const { return scale_.data(); }

 private:
  friend void multiply_columns(const ChunkColumns& a, std::int64_t row, std::int64_t rows,
                               const ChunkColumns& b, std::int64_t col, std::int64_t cols, float* out);
  const void* whole_at(std::int64_t column) const;
  const void* tail_at(std::int64_t column) const;

  DType dtype_;
  std::int64_t columns_;
  std::int64_t whole_;  ///< rows read from source_; the tail's copy holds the rest and zeros
  Matrix source_;
  HostBuffer copy_, tail_;
  std::vector<float> scale_;
};

/// out (rows, cols) = A[:, row..]ᵀ · B[:, col..]; of the same chunk (equal types and row counts).
void multiply_columns(const ChunkColumns& a, std::int64_t row, std::int64_t rows, const ChunkColumns& b,
                      std::int64_t col, std::int64_t cols, float* out);

const HessianTable& hessian_table();  ///< this machine's

/// Tiles of one product: wide enough for full speed, many enough for many threads. A Hessian's are as high as
/// its panels.
constexpr std::int64_t kProductRows = 192;
constexpr std::int64_t kProductColumns = 384;
constexpr std::int64_t kCrossRows = 384;
float* product_of_thread();  ///< kCrossRows * kProductColumns floats

}  // namespace gptq
