#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"

namespace gptq {

void CpuKernels::copy_heads(const Matrix& x, HeadPattern from, const Matrix& y, HeadPattern to,
                            std::int64_t heads) {
  GPTQ_EXPECT(x.dtype == y.dtype && (x.dtype == DType::f32 || x.dtype == DType::bf16));
  GPTQ_EXPECT(x.rows == y.rows && from.dim == to.dim && from.dim > 0 && heads > 0);
  GPTQ_EXPECT(from.first + (heads - 1) * from.pitch + from.dim <= x.cols);
  GPTQ_EXPECT(to.first + (heads - 1) * to.pitch + to.dim <= y.cols);
  constexpr std::int64_t kRowsPerTask = 32;
  const auto width = static_cast<std::int64_t>(size_of(x.dtype));
  const auto bytes = static_cast<std::size_t>(from.dim * width);
  parallel_for(threads_, (x.rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task) {
    const std::int64_t end = std::min(x.rows, (task + 1) * kRowsPerTask);
    for (std::int64_t r = task * kRowsPerTask; r < end; ++r) {
      const auto* const source = static_cast<const std::byte*>(x.data) + (r * x.stride + from.first) * width;
      auto* const target = static_cast<std::byte*>(y.data) + (r * y.stride + to.first) * width;
      for (std::int64_t h = 0; h < heads; ++h)
        std::memcpy(target + h * to.pitch * width, source + h * from.pitch * width, bytes);
    }
  });
}

}  // namespace gptq
