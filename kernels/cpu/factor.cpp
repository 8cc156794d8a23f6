#include <lapacke.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"

// OpenBLAS has its own threads, whose number would change the bits. Other LAPACKs lack the function.
extern "C" void openblas_set_num_threads(int threads) __attribute__((weak));

namespace gptq {

bool CpuKernels::factor(std::span<double> h, std::int64_t n) {
  GPTQ_EXPECT(static_cast<std::int64_t>(h.size()) == n * n);
  if (n == 0) return true;
  if (openblas_set_num_threads != nullptr) openblas_set_num_threads(1);

  // R = flip(chol(flip(H))), where flip reverses rows and columns: for a dense matrix, the whole array. A
  // row-major lower factor is LAPACK's (column-major) upper one.
  std::reverse(h.begin(), h.end());
  const auto order = static_cast<lapack_int>(n);
  const lapack_int info = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', order, h.data(), order);
  GPTQ_EXPECT(info >= 0);
  if (info > 0) return false;
  std::reverse(h.begin(), h.end());

  for (std::int64_t i = 0; i < n; ++i) {
    double* row = h.data() + i * n;
    std::fill(row, row + i, 0.0);
    if (!(row[i] > 0) || !std::isfinite(row[i])) return false;  // LAPACK lets NaN through
  }
  return true;
}

}  // namespace gptq
