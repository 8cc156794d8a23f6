#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

/// What CudaKernels::solve_rows, correct_rows and refine_rows take of the device's memory; host arithmetic
/// alone, for the plan too.
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

/// Rows that are worked on at once: enough to fill the largest GPU several times over, in about 2 GiB.
inline std::int64_t slice_rows(std::int64_t rows, std::int64_t row_bytes) {
  constexpr std::int64_t budget = std::int64_t{2} << 30;
  constexpr std::int64_t most = 32768, least = 4096;
  const std::int64_t fit = budget / row_bytes / kSolveRowStep * kSolveRowStep;
  return std::min(round_up(rows, kSolveRowStep), std::clamp(fit, least, most));
}

inline std::int64_t solve_slice_rows(std::int64_t rows, std::int64_t n, std::int64_t groups,
                                     std::int64_t ahead) {
  return slice_rows(rows, solve_row_bytes(n, groups, ahead));
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

/// The same of CudaKernels::correct_rows: weights, what is being solved, one batch's step and partial
/// products.
inline std::int64_t correct_row_bytes(std::int64_t n) {
  constexpr std::int64_t chunk = 512;
  return (round_up(n, 16) * 2 + 128 + round_up(n, chunk) / chunk * 128) * 4;
}
inline std::int64_t correct_slice_rows(std::int64_t rows, std::int64_t n) {
  return slice_rows(rows, correct_row_bytes(n));
}

/// Device memory that correcting `rows` rows of n columns takes at most, beside M and R.
inline std::size_t correct_memory_bytes(std::int64_t rows, std::int64_t n) {
  const std::int64_t packed = std::max<std::int64_t>(round_up(n, 16), 128) * 128 * 4;
  const std::int64_t tables = (n / 128 + 1) * (128 * 128 * 4 + 1024) + packed + n * 8;
  return static_cast<std::size_t>(correct_slice_rows(rows, n) * correct_row_bytes(n) + tables + (1 << 20));
}

/// The same of CudaKernels::refine_rows: weights, differences and gradient, one batch's steps, codes and
/// scales with copies of the old ones, figures. `widest`: columns of the widest group that lies in several
/// batches.
inline std::int64_t refine_row_bytes(std::int64_t n, std::int64_t groups, std::int64_t widest) {
  return (n * 3 + 128 + widest + 1) * 4 + n * 2 + groups * (4 + 4 + 4 + 2 + 1) + 8 * 8 + 1;
}
inline std::int64_t refine_slice_rows(std::int64_t rows, std::int64_t n, std::int64_t groups,
                                      std::int64_t widest) {
  return slice_rows(rows, refine_row_bytes(n, groups, widest));
}

/// Device memory that refining `rows` rows of n columns in groups of equal width takes at most, beside H.
inline std::size_t refine_memory_bytes(std::int64_t rows, std::int64_t n, std::int64_t groups) {
  const std::int64_t row_bytes = refine_row_bytes(n, groups, (n + groups - 1) / groups);
  return static_cast<std::size_t>(slice_rows(rows, row_bytes) * row_bytes + n * 64 + (1 << 20));
}

}  // namespace gptq::cuda
