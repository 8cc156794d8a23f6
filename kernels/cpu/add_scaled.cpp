#include <algorithm>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa/forward_rows.h"
#include "kernels/cpu/parallel.h"

namespace gptq {
namespace {

template <typename Body>
void for_each_row(int threads, std::int64_t rows, const Body& body) {
  constexpr std::int64_t kRowsPerTask = 64;
  parallel_for(threads, (rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task) {
    const std::int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
    for (std::int64_t r = task * kRowsPerTask; r < end; ++r) body(r);
  });
}

}  // namespace

void CpuKernels::add_scaled(const Matrix& y, float factor, const Matrix& hidden) {
  GPTQ_EXPECT(y.dtype == DType::f32 && hidden.dtype == DType::f32);
  GPTQ_EXPECT(y.rows == hidden.rows && y.cols == hidden.cols);
  for_each_row(threads_, y.rows, [&](std::int64_t r) {
    row_table().add_scaled(y.row<float>(r), factor, hidden.row<float>(r), y.cols);
  });
}

void CpuKernels::scale(const Matrix& x, float factor) {
  GPTQ_EXPECT(x.dtype == DType::f32);
  for_each_row(threads_, x.rows, [&](std::int64_t r) {
    row_table().scale_f32(x.row<float>(r), factor, x.row<float>(r), x.cols);
  });
}

}  // namespace gptq
