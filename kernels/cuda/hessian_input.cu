#include "kernels/cuda/hessian_input.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cuda/device.cuh"

namespace gptq::cuda {
namespace {

constexpr int kThreads = 256;

/// to (rows, to_stride) = x (rows, cols) with column c multiplied by scale[c], exact but for underflow far
/// below the column's maximum; columns from cols on are 0. In double: the factors can leave f32's range.
template <typename T>
__global__ void scaled_copy_kernel(const T* x, std::int64_t stride, int cols, const double* scale, T* to,
                                   int to_stride) {
  const std::int64_t row = blockIdx.x;
  for (int c = static_cast<int>(threadIdx.x); c < to_stride; c += kThreads) {
    float value = 0;
    if (c < cols) value = static_cast<float>(static_cast<double>(to_float(x[row * stride + c])) * scale[c]);
    to[row * to_stride + c] = from_float<T>(value);
  }
}

}  // namespace

bool is_extreme(std::span<const int> exponents) {
  return std::any_of(exponents.begin(), exponents.end(), [](int e) { return e < -20 || e > 60; });
}

bool has_aligned_rows(const Matrix& x) {
  return x.cols % 8 == 0 && x.stride % 8 == 0 && reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0;
}

bool is_ready_for_products(const Matrix& x) {
  return has_aligned_rows(x) && x.stride == padded_columns(x.cols);
}

Matrix scaled_copy(CudaContext& context, int slot, const Matrix& x, std::span<const int> exponents) {
  std::vector<double> scale(static_cast<std::size_t>(x.cols), 1.0);
  for (std::size_t c = 0; c < exponents.size(); ++c) scale[c] = std::ldexp(1.0, exponents[c]);
  auto* const scale_there =
      static_cast<double*>(context.scratch(kScratchExponents, scale.size() * sizeof(double)));
  context.upload(scale_there, scale.data(), scale.size() * sizeof(double));

  const std::int64_t stride = padded_columns(x.cols);
  void* const copy = context.scratch(slot, static_cast<std::size_t>(x.rows * stride) * size_of(x.dtype));
  with_compute_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    launch(context, scaled_copy_kernel<T>, dim3(blocks_for(x.rows, 1)), dim3(kThreads), 0, x.row<const T>(0),
           x.stride, static_cast<int>(x.cols), scale_there, static_cast<T*>(copy), static_cast<int>(stride));
  });
  return {copy, x.dtype, x.rows, x.cols, stride};
}

}  // namespace gptq::cuda
