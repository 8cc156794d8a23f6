#pragma once

#include "base/tensor.h"
#include "kernels/cuda/cuda_context.h"

/// Private to kernels/cuda: matrix products by cuBLASLt. Row-major, column strides of one.
namespace gptq::cuda {

struct GemmShape {
  std::int64_t m = 0, n = 0, k = 0;  ///< C is (m, n)
  bool transpose_a = false;          ///< A is stored (k, m) instead of (m, k)
  bool transpose_b = false;          ///< B is stored (n, k) instead of (k, n)
  std::int64_t lda = 0, ldb = 0, ldc = 0;
  DType in = DType::f32;    ///< of A and B: f32 (full single precision, no TF32) or bf16 (f32 accumulation)
  DType out = DType::f32;   ///< of C: f32, or bf16 where `in` is
  bool accumulate = false;  ///< C += instead of C =, rounded once
  const float* bias = nullptr;  ///< device (n), added to every row; f32 whatever `out`
};

/// C = A·B (+ C) (+ bias) in the compute stream, all device memory; C overlaps neither A nor B. The algorithm
/// is chosen once a shape (cuBLASLt's heuristic for it, deterministic ones only) and kept. Matrices whose
/// rows do not begin on 16-byte boundaries go through copies (kScratchGemm): so every product is one of
/// aligned matrices, and its bits do not depend on where the caller's memory lies. Throws DeviceError.
void gemm(CudaContext& context, const GemmShape& shape, const void* a, const void* b, void* c);

}  // namespace gptq::cuda
