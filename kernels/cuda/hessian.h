#pragma once

#include <cstdint>
#include <span>

#include "base/tensor.h"
#include "kernels/cuda/cuda_context.h"
#include "kernels/kernels.h"

/// Private to kernels/cuda: the two ways to accumulate a Hessian. Both take a chunk's products in f32, but
/// add them up in different orders, so their bits differ: a job always uses preferred_hessian_method. Only
/// tests and benchmarks ask for another.
namespace gptq::cuda {

inline constexpr std::int64_t kRangeStep = 2;  ///< panels: 384 rows, three tile rows of the fused kernel

enum class HessianMethod {
  blas,   ///< library products of stripes of rows into f32 scratch, then a kernel that scales and adds
  fused,  ///< bf16 only: one kernel of our own that multiplies tiles of the triangle, scales and adds
};

HessianMethod preferred_hessian_method(DType dtype);

/// Kernels::accumulate_hessian by a given method. range.first must be a multiple of kRangeStep, so must
/// range.end where it is not the last panel's: tiles of both methods then lie within one range.
void accumulate_hessian(CudaContext& context, HessianMethod method, const Matrix& x,
                        std::span<const int> exponents, PanelRange range, std::int64_t* sum);

/// sum += round(scale[i] · scale[j] · (XᵀX)_ij) for rows i of the range. x: (rows, n) bf16, n and stride
/// multiples of 8, data aligned to 16 bytes; scale: host (n) powers of two.
void accumulate_fused(CudaContext& context, const Matrix& x, std::span<const float> scale, PanelRange range,
                      std::int64_t* sum);

}  // namespace gptq::cuda
