#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa/forward_rows.h"

namespace gptq {

void CpuKernels::embed(std::span<const std::int32_t> ids, const Matrix& table, const Matrix& out) {
  GPTQ_EXPECT(out.dtype == DType::f32 && out.rows == static_cast<std::int64_t>(ids.size()) &&
              out.cols == table.cols);
  for (std::int64_t r = 0; r < out.rows; ++r) {
    const std::int64_t id = ids[static_cast<std::size_t>(r)];
    GPTQ_EXPECT(id >= 0 && id < table.rows);
    float* const row = out.row<float>(r);
    switch (table.dtype) {
      case DType::f32:
        std::copy_n(table.row<float>(id), out.cols, row);
        break;
      case DType::bf16:
        row_table().to_f32(table.row<std::uint16_t>(id), row, out.cols);
        break;
      case DType::f16:
        std::transform(table.row<f16>(id), table.row<f16>(id) + out.cols, row,
                       [](f16 v) { return to_float(v); });
        break;
      default:
        contract_violation("the embedding is of a floating type", __FILE__, __LINE__);
    }
  }
}

}  // namespace gptq
