#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"

namespace gptq {

/// Rows [first, first + count) of one sample.
struct RowTile {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// Cuts every sample on its own into tiles of `height` rows and a shorter last one.
std::vector<RowTile> row_tiles(const Batch& batch, std::int64_t height);

/// The height of product used for a tile of `count` rows: few heights occur, so few library kernels are made.
inline std::int64_t product_rows(std::int64_t count) {
  constexpr std::int64_t kStep = 32;
  return (count + kStep - 1) / kStep * kStep;
}

}  // namespace gptq
