#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

/// Device memory that the Hessian and factor kernels take beside their arguments, for the plan. No CUDA
/// types.
namespace gptq::cuda {

/// Rows of XᵀX that one library product of accumulate_hessian covers: whole panels, a function of n alone
/// (it decides bits). A stripe of s rows wastes s²/2 products below the diagonal, so it should be low; a
/// product must fill the GPU, about 128×256 outputs to a multiprocessor, so it should be high: about 8 Mi
/// outputs.
inline std::int64_t hessian_stripe_rows(std::int64_t n) {
  constexpr std::int64_t panel = TriangularPanels::kPanel;
  constexpr std::int64_t outputs = std::int64_t{8} << 20, lowest = 6 * panel;
  const std::int64_t wanted = std::max(lowest, outputs / std::max<std::int64_t>(n, 1));
  return std::min((wanted + panel - 1) / panel, TriangularPanels::panels(n)) * panel;
}

/// Most that accumulate_hessian takes for chunks of chunk_rows rows: a stripe of products, a copy of the
/// chunk (made only where its columns are extreme or its rows not aligned), scales and tiles. Kept between
/// calls.
inline std::size_t hessian_memory_bytes(std::int64_t n, std::int64_t chunk_rows) {
  const std::int64_t product = hessian_stripe_rows(n) * (n + 7) * 4;
  const std::int64_t copy = chunk_rows * (n + 7) * 4;
  const std::int64_t tiles = (n / 128 + 1) * (n / 256 + 1) * 4;
  return static_cast<std::size_t>(product + copy + tiles + n * 8);
}

/// Most that accumulate_cross takes for m rows of the sum: the same and a copy of the other chunk. All but
/// that copy and its scales is accumulate_hessian's.
inline std::size_t cross_memory_bytes(std::int64_t m, std::int64_t n, std::int64_t chunk_rows) {
  const std::int64_t copy = chunk_rows * (m + 7) * 4;
  return hessian_memory_bytes(n, chunk_rows) + static_cast<std::size_t>(copy + m * 4);
}

/// What factor() takes while it runs, given back when it returns: the matrix in double precision, and an
/// allowance for the library's workspace, which only the library can tell (on the device; not measured yet).
inline std::size_t factor_memory_bytes(std::int64_t n) {
  return static_cast<std::size_t>(n * n * 8 + n * 1024 * 8 + n * 16) + (std::size_t{32} << 20);
}

}  // namespace gptq::cuda
