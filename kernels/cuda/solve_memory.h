#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

/// What CudaKernels::solve_rows takes of the device's memory; host arithmetic alone, for the plan too.
namespace gptq::cuda {

constexpr std::int64_t kSolveRowStep = 128;  ///< a slice's rows are a multiple of it

inline std::int64_t round_up(std::int64_t x, std::int64_t to) {
  return (x + to - 1) / to * to;
}

/// Bytes a row: weights, differences, partial products (f32), codes, scales and zeros, statistics. `ahead`:
/// columns of the widest group whose values are solved ahead.
inline std::int64_t solve_row_bytes(std::int64_t n, std::int64_t groups, std::int64_t ahead) {
  constexpr std::int64_t chunk = 512;
  const std::int64_t columns = round_up(n, 16);
  const std::int64_t matrices = columns * 4 * 2 + ahead * 4 + round_up(n, chunk) / chunk * 128 * 4;
  return matrices + n + groups * (4 + 4 + 2 + 1) + (n / 128 + 1) * 4 + 5 * 8;
}

/// Rows that are solved at once: enough to fill the largest GPU several times over, in about 2 GiB.
inline std::int64_t solve_slice_rows(std::int64_t rows, std::int64_t n, std::int64_t groups,
                                     std::int64_t ahead) {
  constexpr std::int64_t budget = std::int64_t{2} << 30;
  constexpr std::int64_t most = 32768, least = 4096;
  const std::int64_t fit = budget / solve_row_bytes(n, groups, ahead) / kSolveRowStep * kSolveRowStep;
  return std::min(round_up(rows, kSolveRowStep), std::clamp(fit, least, most));
}

/// Device memory that solving `rows` rows of n columns in groups of equal width takes at most, beside R.
inline std::size_t solve_memory_bytes(std::int64_t rows, std::int64_t n, std::int64_t groups) {
  const std::int64_t width = (n + groups - 1) / groups;
  const std::int64_t ahead = groups > 1 && width > SolveOptions::kColumnBatch ? width : 0;
  const std::int64_t slice = solve_slice_rows(rows, n, groups, ahead);
  const std::int64_t triangle = 128 * 128 * 4;
  const std::int64_t batches = n / 64 + 1;  // two neighbours hold more than 128 columns
  const std::int64_t tables = batches * (triangle + 1024) + round_up(n, 16) * 512 + n * 64;
  return static_cast<std::size_t>(slice * solve_row_bytes(n, groups, ahead) + tables + (1 << 20));
}

}  // namespace gptq::cuda
