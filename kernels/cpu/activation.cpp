#include <algorithm>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa/forward_rows.h"
#include "kernels/cpu/parallel.h"

namespace gptq {

void CpuKernels::activation(Activation kind, const Matrix& x, const Matrix& y) {
  GPTQ_EXPECT(x.dtype == y.dtype && (x.dtype == DType::f32 || x.dtype == DType::bf16));
  GPTQ_EXPECT(x.rows == y.rows && x.cols == y.cols);
  static_assert(static_cast<int>(Activation::silu) == 0 && static_cast<int>(Activation::gelu_tanh) == 1 &&
                static_cast<int>(Activation::gelu) == 2 && static_cast<int>(Activation::relu) == 3);
  constexpr std::int64_t kRowsPerTask = 32;
  const int number = static_cast<int>(kind);
  parallel_for(threads_, (y.rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task) {
    const std::int64_t end = std::min(y.rows, (task + 1) * kRowsPerTask);
    for (std::int64_t r = task * kRowsPerTask; r < end; ++r) {
      if (y.dtype == DType::f32) {
        row_table().activate_f32(number, x.row<float>(r), y.row<float>(r), y.cols);
      } else {
        row_table().activate_bf16(number, x.row<std::uint16_t>(r), y.row<std::uint16_t>(r), y.cols);
      }
    }
  });
}

}  // namespace gptq
