#include <algorithm>
#include <bit>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/chunk_product.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"

namespace gptq {
namespace {

static_assert(sizeof(long) == sizeof(std::int64_t));

constexpr std::int64_t kPanel = TriangularPanels::kPanel;
static_assert(kPanel == kProductRows);

struct Tile {
  std::int64_t panel, col, cols;
};

/// Output tiles, the same whatever the range; the large ones first.
std::vector<Tile> tiles_of(std::int64_t n, PanelRange range) {
  std::vector<Tile> tiles;
  for (std::int64_t panel = range.first; panel < range.end; ++panel)
    for (std::int64_t col = panel * kPanel; col < n; col += kProductColumns)
      tiles.push_back({panel, col, std::min(kProductColumns, n - col)});
  std::stable_sort(tiles.begin(), tiles.end(), [](const Tile& a, const Tile& b) { return a.cols > b.cols; });
  return tiles;
}

}  // namespace

void CpuKernels::column_max(const Matrix& x, float* maximum) {
  GPTQ_EXPECT(x.dtype == DType::f32 || x.dtype == DType::bf16);
  constexpr std::int64_t width = 256;
  parallel_for(threads_, (x.cols + width - 1) / width, [&](std::int64_t tile) {
    const Matrix part = x.cols_from(tile * width, std::min(width, x.cols - tile * width));
    unsigned bits[width];
    float* const values = maximum + tile * width;
    for (std::int64_t c = 0; c < part.cols; ++c) bits[c] = std::bit_cast<unsigned>(values[c]);
    if (part.dtype == DType::f32)
      hessian_table().max_bits_f32(part.row<const unsigned>(0), part.rows, part.stride, part.cols, bits);
    else
      hessian_table().max_bits_bf16(part.row<const unsigned short>(0), part.rows, part.stride, part.cols,
                                    bits);
    for (std::int64_t c = 0; c < part.cols; ++c) values[c] = std::bit_cast<float>(bits[c]);
  });
}

void CpuKernels::accumulate_hessian(const Matrix& x, std::span<const int> exponents, PanelRange range,
                                    std::int64_t* sum) {
  GPTQ_EXPECT(range.first >= 0 && range.end <= TriangularPanels::panels(x.cols));
  if (x.rows == 0 || range.first >= range.end) return;
  const std::int64_t n = x.cols;
  const ChunkColumns chunk(x, exponents);
  const std::vector<Tile> tiles = tiles_of(n, range);
  parallel_for(threads_, static_cast<std::int64_t>(tiles.size()), [&](std::int64_t i) {
    const Tile& tile = tiles[static_cast<std::size_t>(i)];
    const std::int64_t row = tile.panel * kPanel;
    const std::int64_t rows = std::min(kPanel, n - row);
    float* const product = product_of_thread();
    multiply_columns(chunk, row, rows, chunk, tile.col, tile.cols, product);
    for (std::int64_t r = 0; r < rows; ++r)
      hessian_table().add_scaled(product + r * tile.cols, tile.cols, chunk.scale()[row + r],
                                 chunk.scale() + tile.col,
                                 sum + TriangularPanels::index(n, row + r, tile.col));
  });
}

void CpuKernels::accumulate_cross(const Matrix& d, std::span<const int> d_exponents, const Matrix& x,
                                  std::span<const int> exponents, std::int64_t* sum) {
  GPTQ_EXPECT(d.rows == x.rows && d.dtype == x.dtype);
  if (x.rows == 0) return;
  const std::int64_t m = d.cols, n = x.cols;
  const ChunkColumns left(d, d_exponents), right(x, exponents);
  const std::int64_t down = (m + kCrossRows - 1) / kCrossRows;
  const std::int64_t across = (n + kProductColumns - 1) / kProductColumns;
  parallel_for(threads_, down * across, [&](std::int64_t i) {
    const std::int64_t row = i / across * kCrossRows, col = i % across * kProductColumns;
    const std::int64_t rows = std::min(kCrossRows, m - row), cols = std::min(kProductColumns, n - col);
    float* const product = product_of_thread();
    multiply_columns(left, row, rows, right, col, cols, product);
    for (std::int64_t r = 0; r < rows; ++r)
      hessian_table().add_scaled(product + r * cols, cols, left.scale()[row + r], right.scale() + col,
                                 sum + (row + r) * n + col);
  });
}

}  // namespace gptq
