#include <lapacke.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"

// OpenBLAS has its own threads, whose number would change the bits. Other LAPACKs lack the function.
extern "C" void openblas_set_num_threads(int threads) __attribute__((weak));

namespace gptq {
namespace {

std::vector<double> units_of(std::span<const int> exponents) {
  std::vector<double> units(exponents.size());
  for (std::size_t c = 0; c < units.size(); ++c) units[c] = std::ldexp(1.0, -exponents[c]);
  return units;
}

/// H in visiting order, damped; only the upper triangle, rows and columns reversed: the (row-major) lower
/// triangle of flip(H + λI).
HostBuffer flipped(const FactorInput& input) {
  const std::int64_t n = input.n;
  const std::vector<double> units = units_of(input.exponents);
  HostBuffer buffer(static_cast<std::size_t>(n * n) * sizeof(double));
  auto* const matrix = reinterpret_cast<double*>(buffer.data());
  for (std::int64_t p = 0; p < n; ++p) {
    const std::int64_t i = input.order[static_cast<std::size_t>(p)];
    double* const row = matrix + (n - 1 - p) * n;
    for (std::int64_t q = p; q < n; ++q) {
      const std::int64_t j = input.order[static_cast<std::size_t>(q)];
      const std::int64_t entry = input.sum[TriangularPanels::index(n, std::min(i, j), std::max(i, j))];
      row[n - 1 - q] = static_cast<double>(entry) * input.scale * units[static_cast<std::size_t>(i)] *
                       units[static_cast<std::size_t>(j)];
    }
    double& diagonal = row[n - 1 - p];
    diagonal = (input.dead[static_cast<std::size_t>(i)] ? 1.0 : diagonal) + input.damping;
  }
  return buffer;
}

/// Is this a pivot whose inverse single precision can hold?
bool is_normal(float pivot) {
  return pivot >= std::numeric_limits<float>::min() && pivot <= std::numeric_limits<float>::max();
}

}  // namespace

void CpuKernels::hessian_diagonal(const std::int64_t* sum, std::span<const int> exponents, double scale,
                                  std::span<double> diagonal) {
  const auto n = static_cast<std::int64_t>(exponents.size());
  GPTQ_EXPECT(diagonal.size() == exponents.size());
  for (std::int64_t i = 0; i < n; ++i) {
    const double unit = std::ldexp(1.0, -exponents[static_cast<std::size_t>(i)]);
    diagonal[static_cast<std::size_t>(i)] =
        static_cast<double>(sum[TriangularPanels::index(n, i, i)]) * scale * unit * unit;
  }
}

bool CpuKernels::factor(const FactorInput& input, float* r) {
  const std::int64_t n = input.n;
  GPTQ_EXPECT(static_cast<std::int64_t>(input.exponents.size()) == n &&
              static_cast<std::int64_t>(input.order.size()) == n &&
              static_cast<std::int64_t>(input.dead.size()) == n);
  if (n == 0) return true;
  if (openblas_set_num_threads != nullptr) openblas_set_num_threads(1);

  // R = flip(chol(flip(H))), where flip reverses rows and columns: for a dense matrix, the whole array. A
  // row-major lower factor is LAPACK's (column-major) upper one.
  const HostBuffer buffer = flipped(input);
  auto* const matrix = reinterpret_cast<double*>(buffer.data());
  const auto order = static_cast<lapack_int>(n);
  const lapack_int info = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', order, matrix, order);
  GPTQ_EXPECT(info >= 0);
  if (info > 0) return false;

  for (std::int64_t i = 0; i < n; ++i) {
    const double* const from = matrix + (n - 1 - i) * n;
    float* const row = r + i * n;
    std::fill(row, row + i, 0.0f);
    for (std::int64_t j = i; j < n; ++j) row[j] = static_cast<float>(from[n - 1 - j]);
    if (!is_normal(row[i])) return false;  // LAPACK lets NaN through
  }
  return true;
}

}  // namespace gptq
