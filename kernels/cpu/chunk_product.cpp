#include "kernels/cpu/chunk_product.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa/isa.h"

namespace gptq {
namespace {

constexpr std::int64_t kRowMultiple = 256;  // products run over multiples of this: few distinct shapes

/// Does a product of two columns risk leaving f32's range? Exponents come from the columns' maxima: 2^-e is
/// roughly the maximum times 2^-22.
bool is_extreme(std::span<const int> exponents) {
  return std::any_of(exponents.begin(), exponents.end(), [](int e) { return e < -20 || e > 60; });
}

/// x with column c multiplied by 2^exponents[c], exact but for underflow far below the column's maximum.
HostBuffer scaled_copy(const Matrix& x, std::span<const int> exponents) {
  HostBuffer copy(static_cast<std::size_t>(x.rows * x.cols) * size_of(x.dtype));
  std::vector<double> scale(exponents.size());
  for (std::size_t c = 0; c < scale.size(); ++c) scale[c] = std::ldexp(1.0, exponents[c]);
  for (std::int64_t r = 0; r < x.rows; ++r) {
    for (std::int64_t c = 0; c < x.cols; ++c) {
      const double factor = scale[static_cast<std::size_t>(c)];
      if (x.dtype == DType::bf16) {
        const double value = to_float(x.row<bf16>(r)[c]);
        reinterpret_cast<bf16*>(copy.data())[r * x.cols + c] = to_bf16(static_cast<float>(value * factor));
      } else {
        const double value = x.row<float>(r)[c];
        reinterpret_cast<float*>(copy.data())[r * x.cols + c] = static_cast<float>(value * factor);
      }
    }
  }
  return copy;
}

/// The last rows % kRowMultiple rows, followed by zeros.
HostBuffer padded_tail(const Matrix& x, std::int64_t whole) {
  const std::size_t row_bytes = static_cast<std::size_t>(x.cols) * size_of(x.dtype);
  HostBuffer tail(row_bytes * kRowMultiple);
  for (std::int64_t r = whole; r < x.rows; ++r)
    std::memcpy(tail.data() + static_cast<std::size_t>(r - whole) * row_bytes, x.rows_from(r, 1).data,
                row_bytes);
  const std::size_t filled = static_cast<std::size_t>(x.rows - whole) * row_bytes;
  std::memset(tail.data() + filled, 0, tail.size() - filled);
  return tail;
}

}  // namespace

ChunkColumns::ChunkColumns(const Matrix& x, std::span<const int> exponents)
    : dtype_(x.dtype), columns_(x.cols), whole_(x.rows - x.rows % kRowMultiple), source_(x) {
  GPTQ_EXPECT(static_cast<std::int64_t>(exponents.size()) == x.cols);
  GPTQ_EXPECT(x.dtype == DType::f32 || x.dtype == DType::bf16);
  scale_.assign(exponents.size(), 1.0f);
  if (is_extreme(exponents)) {
    copy_ = scaled_copy(x, exponents);
    source_ = {copy_.data(), x.dtype, x.rows, x.cols, x.cols};
  } else {
    for (std::size_t c = 0; c < scale_.size(); ++c) scale_[c] = std::ldexp(1.0f, exponents[c]);
  }
  if (whole_ < x.rows) tail_ = padded_tail(source_, whole_);
}

const void* ChunkColumns::whole_at(std::int64_t column) const {
  return source_.cols_from(column, 1).data;
}

const void* ChunkColumns::tail_at(std::int64_t column) const {
  return tail_.data() + static_cast<std::size_t>(column) * size_of(dtype_);
}

void multiply_columns(const ChunkColumns& a, std::int64_t row, std::int64_t rows, const ChunkColumns& b,
                      std::int64_t col, std::int64_t cols, float* out) {
  GemmShape shape;
  shape.m = rows;
  shape.n = cols;
  shape.in = a.dtype_;
  shape.transpose_a = true;
  shape.ldc = cols;
  if (a.whole_ > 0) {
    shape.k = a.whole_;
    shape.lda = a.source_.stride;
    shape.ldb = b.source_.stride;
    gemm(shape, a.whole_at(row), b.whole_at(col), out);
  }
  if (a.whole_ < a.source_.rows) {
    shape.k = kRowMultiple;
    shape.lda = a.columns_;
    shape.ldb = b.columns_;
    shape.accumulate = a.whole_ > 0;
    gemm(shape, a.tail_at(row), b.tail_at(col), out);
  }
}

const HessianTable& hessian_table() {
  static const HessianTable* const tables[] = {&isa_v2::hessian_table, &isa_v3::hessian_table,
                                               &isa_v4::hessian_table};
  return *tables[isa_level()];
}

float* product_of_thread() {
  thread_local HostBuffer buffer(static_cast<std::size_t>(kCrossRows * kProductColumns) * sizeof(float));
  return reinterpret_cast<float*>(buffer.data());
}

}  // namespace gptq
