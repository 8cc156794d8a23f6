#include <algorithm>
#include <atomic>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa/forward_rows.h"
#include "kernels/cpu/parallel.h"

namespace gptq {

bool CpuKernels::all_finite(const Matrix& x) {
  GPTQ_EXPECT(x.dtype == DType::f32 || x.dtype == DType::bf16);
  constexpr std::int64_t kRowsPerTask = 64;
  constexpr std::uint32_t kInfinityBits = 0x7f800000u;
  std::atomic<bool> finite = true;
  parallel_for(threads_, (x.rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task) {
    const std::int64_t end = std::min(x.rows, (task + 1) * kRowsPerTask);
    for (std::int64_t r = task * kRowsPerTask; r < end; ++r) {
      const std::uint32_t top = x.dtype == DType::f32
                                    ? row_table().top_bits_f32(x.row<float>(r), x.cols)
                                    : row_table().top_bits_bf16(x.row<std::uint16_t>(r), x.cols);
      if (top >= kInfinityBits) finite = false;
    }
  });
  return finite;
}

}  // namespace gptq
