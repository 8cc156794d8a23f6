#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.h"

namespace gptq {

/// One grid for a whole weight tensor (per_channel: false).
struct TensorScale {
  f16 scale{};
  std::uint8_t zero = 0;
};

/// The scale and zero that options.search finds for all of a layer's original weights at once: the range
/// (which includes 0) shrunk to p = 1 - i/grid, of the p with i < max_shrink·grid the first with the least
/// Σ weight[column] · |q − w|^norm; minmax: p = 1. Scales are rounded to fp16 before they are judged.
/// weight: host (rows, n), any floating dtype. column_weight: (n), used by Search::weighted alone; all zeros
/// count as all ones. The result depends on neither threads nor anything but these arguments. Throws
/// NumericalError if a weight is NaN or infinite.
TensorScale find_tensor_scale(const Matrix& weight, std::span<const float> column_weight,
                              const SolveOptions& options, int threads = 1);

/// The same grid for every row: what RowsToSolve::scales and zeros take.
struct GivenScales {
  std::vector<f16> scales;          ///< (rows, 1)
  std::vector<std::uint8_t> zeros;  ///< (rows, 1)
};
GivenScales repeated(const TensorScale& scale, std::int64_t rows);

}  // namespace gptq
