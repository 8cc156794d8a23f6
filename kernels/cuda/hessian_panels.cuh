#pragma once

#include <cstdint>

#include "kernels/kernels.h"

/// TriangularPanels (kernels.h) as kernels see them.
namespace gptq::cuda {

/// First column that the panel of `row` stores.
__device__ inline int panel_start(int row) {
  constexpr int panel = TriangularPanels::kPanel;
  return row / panel * panel;
}

/// Add a column >= panel_start(row) to get the index of element (row, column). Does not overflow for
/// n < 2^31.
__device__ inline std::int64_t panel_row(std::int64_t n, int row) {
  constexpr std::int64_t rows = TriangularPanels::kPanel;
  const std::int64_t panel = row / static_cast<int>(rows);
  const std::int64_t start = panel * rows;
  const std::int64_t offset = start * n - rows * rows * (panel * (panel - 1) / 2);
  return offset + (row - start) * (n - start) - start;
}

/// round to nearest even (product · row_scale · column_scale). Powers of two one after the other: nothing is
/// rounded twice.
__device__ inline long long scaled_integer(float product, float row_scale, float column_scale) {
  return llrintf(product * row_scale * column_scale);
}

}  // namespace gptq::cuda
