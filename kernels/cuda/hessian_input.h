#pragma once

#include <span>

#include "base/tensor.h"
#include "kernels/cuda/cuda_context.h"

/// Private to kernels/cuda: activations as the library's products of columns want them.
namespace gptq::cuda {

/// Elements that a row of `cols` takes with 16-byte aligned rows.
inline std::int64_t padded_columns(std::int64_t cols) {
  return (cols + 7) / 8 * 8;
}

/// Does a product of two columns risk leaving f32's range? Exponents come from the columns' maxima: 2^-e is
/// roughly the maximum times 2^-22. The CPU kernel's rule.
bool is_extreme(std::span<const int> exponents);

/// Do x's rows begin on 16-byte boundaries, with nothing but whole pieces of 16 bytes in them?
bool has_aligned_rows(const Matrix& x);

/// Can the library take x as it lies? Its choice of an algorithm could depend on the distance of rows: so
/// that is always the same for n columns.
bool is_ready_for_products(const Matrix& x);

/// x with its columns scaled by 2^exponents (empty: as they are) in a scratch slot, rows a multiple of 16
/// bytes apart. Also uses kScratchExponents.
Matrix scaled_copy(CudaContext& context, int slot, const Matrix& x, std::span<const int> exponents);

}  // namespace gptq::cuda
