#include <algorithm>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa/forward_rows.h"
#include "kernels/cpu/parallel.h"

namespace gptq {

void CpuKernels::gated_activation(Activation activation, const Matrix& gate, const Matrix& up,
                                  const Matrix& out) {
  GPTQ_EXPECT(gate.dtype == up.dtype && up.dtype == out.dtype);
  GPTQ_EXPECT(gate.dtype == DType::f32 || gate.dtype == DType::bf16);
  GPTQ_EXPECT(gate.rows == out.rows && up.rows == out.rows && gate.cols == out.cols && up.cols == out.cols);
  static_assert(static_cast<int>(Activation::silu) == 0 && static_cast<int>(Activation::gelu_tanh) == 1 &&
                static_cast<int>(Activation::gelu) == 2 && static_cast<int>(Activation::relu) == 3);
  constexpr std::int64_t kRowsPerTask = 32;
  const int kind = static_cast<int>(activation);
  parallel_for(threads_, (out.rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task) {
    const std::int64_t end = std::min(out.rows, (task + 1) * kRowsPerTask);
    for (std::int64_t r = task * kRowsPerTask; r < end; ++r) {
      if (out.dtype == DType::f32) {
        row_table().gate_f32(kind, gate.row<float>(r), up.row<float>(r), out.row<float>(r), out.cols);
      } else {
        using u16 = std::uint16_t;
        row_table().gate_bf16(kind, gate.row<u16>(r), up.row<u16>(r), out.row<u16>(r), out.cols);
      }
    }
  });
}

}  // namespace gptq
