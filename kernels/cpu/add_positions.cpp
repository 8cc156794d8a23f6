#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa/forward_rows.h"
#include "kernels/cpu/parallel.h"

namespace gptq {

void CpuKernels::add_positions(const Batch& batch, const Matrix& table, std::int64_t first,
                               const Matrix& hidden) {
  GPTQ_EXPECT(table.dtype == DType::f32 && hidden.dtype == DType::f32 && table.cols == hidden.cols);
  GPTQ_EXPECT(hidden.rows == batch.rows() && first >= 0);
  parallel_for(threads_, batch.samples(), [&](std::int64_t s) {
    const std::int64_t start = batch.offsets[s];
    const std::int64_t length = batch.offsets[s + 1] - start;
    GPTQ_EXPECT(length <= table.rows - first);
    for (std::int64_t p = 0; p < length; ++p)
      row_table().add_f32(table.row<float>(first + p), hidden.row<float>(start + p), hidden.cols);
  });
}

}  // namespace gptq
