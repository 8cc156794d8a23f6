#include <algorithm>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa/forward_rows.h"
#include "kernels/cpu/parallel.h"

namespace gptq {

void CpuKernels::subtract(const Matrix& a, const Matrix& b, const Matrix& y) {
  constexpr std::int64_t kRowsPerTask = 64;
  GPTQ_EXPECT(a.dtype == b.dtype && a.dtype == y.dtype && a.rows == b.rows && a.rows == y.rows);
  GPTQ_EXPECT(a.cols == b.cols && a.cols == y.cols);
  GPTQ_EXPECT(a.dtype == DType::f32 || a.dtype == DType::bf16);
  const RowTable& table = row_table();
  parallel_for(threads_, (a.rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task) {
    const std::int64_t end = std::min(a.rows, (task + 1) * kRowsPerTask);
    for (std::int64_t row = task * kRowsPerTask; row < end; ++row) {
      // −b is exact, so the sum is rounded once.
      if (a.dtype == DType::f32) {
        table.scale_f32(b.row<const float>(row), -1, y.row<float>(row), a.cols);
        table.add_f32(a.row<const float>(row), y.row<float>(row), a.cols);
      } else {
        table.rescale_bf16(b.row<const std::uint16_t>(row), -1, y.row<std::uint16_t>(row), a.cols);
        table.add_bf16(a.row<const std::uint16_t>(row), y.row<std::uint16_t>(row), a.cols);
      }
    }
  });
}

}  // namespace gptq
