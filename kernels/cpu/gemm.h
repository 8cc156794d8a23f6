#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace gptq {

/// c (m, n) = op(a)·op(b), or c += … . Row-major; lda, ldb, ldc are the elements between the *stored* rows.
struct GemmShape {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  DType in = DType::f32;     ///< of a and b: f32 or bf16
  DType out = DType::f32;    ///< of c: f32 or the same as `in`
  bool transpose_a = false;  ///< a is stored (k, m)
  bool transpose_b = false;  ///< b is stored (n, k)
  std::int64_t lda = 0;
  std::int64_t ldb = 0;
  std::int64_t ldc = 0;
  bool accumulate = false;

  bool operator==(const GemmShape&) const = default;
};

/// One product on the calling thread alone, whatever OpenMP's settings are; its bits depend on the shape and
/// the data only. Sums run in f32. The library's kernel for a shape is made at the first call of each thread
/// and kept, so call it with few distinct shapes. Throws DeviceError where this machine has no such product
/// (bf16 without AVX-512).
///
/// oneDNN with OpenMP starts a team of its own unless it is inside an *active* parallel region (of two
/// threads or more) or the calling thread's team size is 1. Hence the size is set to 1 here.
void gemm(const GemmShape& shape, const void* a, const void* b, void* c);

/// Makes library calls of this thread run on this thread alone, from now on.
void keep_library_on_this_thread();

}  // namespace gptq
