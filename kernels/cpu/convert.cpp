#include <algorithm>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa/forward_rows.h"
#include "kernels/cpu/parallel.h"

namespace gptq {
namespace {

using u16 = std::uint16_t;

void convert_row(const Matrix& x, const Matrix& y, std::int64_t row) {
  if (x.dtype == y.dtype) {
    if (x.dtype == DType::f32) {
      std::copy_n(x.row<float>(row), x.cols, y.row<float>(row));
    } else {
      std::copy_n(x.row<u16>(row), x.cols, y.row<u16>(row));
    }
  } else if (x.dtype == DType::f32) {
    row_table().to_bf16(x.row<float>(row), y.row<u16>(row), x.cols);
  } else {
    row_table().to_f32(x.row<u16>(row), y.row<float>(row), x.cols);
  }
}

}  // namespace

void CpuKernels::convert(const Matrix& x, const Matrix& y) {
  for (const Matrix* m : {&x, &y}) GPTQ_EXPECT(m->dtype == DType::f32 || m->dtype == DType::bf16);
  GPTQ_EXPECT(x.rows == y.rows && x.cols == y.cols);
  constexpr std::int64_t kRowsPerTask = 64;
  parallel_for(threads_, (x.rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task) {
    const std::int64_t end = std::min(x.rows, (task + 1) * kRowsPerTask);
    for (std::int64_t r = task * kRowsPerTask; r < end; ++r) convert_row(x, y, r);
  });
}

}  // namespace gptq
