#pragma once

#include <oneapi/dnnl/dnnl.hpp>

#include "base/tensor.h"

/// Private to kernels/cpu: products with a right-hand matrix that was rearranged once for many uses.
namespace gptq {

/// A matrix (k, n) in the layout the library multiplies fastest. Reading it from several threads is safe.
class PackedMatrix {
 public:
  /// In memory of its own.
  PackedMatrix(std::int64_t k, std::int64_t n, DType dtype);
  /// In memory of the caller, bytes(k, n, dtype) at least, aligned to 64.
  PackedMatrix(std::int64_t k, std::int64_t n, DType dtype, void* data);

  static std::size_t bytes(std::int64_t k, std::int64_t n, DType dtype);

  /// Fills it from a dense matrix of the same type, stored (k, n), or (n, k) if transposed.
  void fill(const void* source, bool transposed);

  std::int64_t k() const { return k_; }
  std::int64_t n() const { return n_; }
  DType dtype() const { return dtype_; }
  const dnnl::memory& memory() const { return memory_; }

 private:
  std::int64_t k_;
  std::int64_t n_;
  DType dtype_;
  HostBuffer storage_;
  dnnl::memory memory_;
};

/// c (m, n) = a (m, k) · b + bias, or c += …; a and c dense. On this thread alone, like gemm(). bias: f32 (n)
/// or empty.
void packed_product(std::int64_t m, const void* a, const PackedMatrix& b, const dnnl::memory& bias, void* c,
                    DType c_type, bool accumulate);

}  // namespace gptq
