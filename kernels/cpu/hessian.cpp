#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa/hessian_rows.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/parallel.h"

namespace gptq {
namespace {

static_assert(sizeof(long) == sizeof(std::int64_t));

const HessianTable& table() {
  static const HessianTable* const tables[] = {&isa_v2::hessian_table, &isa_v3::hessian_table,
                                               &isa_v4::hessian_table};
  return *tables[isa_level()];
}

constexpr std::int64_t kPanel = TriangularPanels::kPanel;
constexpr std::int64_t kTileColumns =
    384;  // of one product: wide enough for full speed, many enough for many threads
constexpr std::int64_t kRowMultiple = 256;  // products run over multiples of this: few distinct shapes

/// A rows×n matrix whose row count is a multiple of kRowMultiple: x itself up to `whole` rows, then
/// zero-padded copies.
struct Chunk {
  DType dtype;
  std::int64_t whole;  ///< rows read from x
  const void* x;
  std::int64_t x_stride;
  const void* tail;  ///< kRowMultiple more rows, n apart; null: none
};

/// Does a product of two columns risk leaving f32's range? Exponents come from the columns' maxima: 2^-e is
/// roughly the maximum times 2^-22.
bool is_extreme(std::span<const int> exponents) {
  return std::any_of(exponents.begin(), exponents.end(), [](int e) { return e < -20 || e > 60; });
}

/// x with column c multiplied by 2^exponents[c], exact but for underflow far below the column's maximum.
HostBuffer scaled_copy(const Matrix& x, std::span<const int> exponents) {
  HostBuffer copy(static_cast<std::size_t>(x.rows * x.cols) * size_of(x.dtype));
  std::vector<double> scale(exponents.size());
  for (std::size_t c = 0; c < scale.size(); ++c) scale[c] = std::ldexp(1.0, exponents[c]);
  for (std::int64_t r = 0; r < x.rows; ++r) {
    for (std::int64_t c = 0; c < x.cols; ++c) {
      const double factor = scale[static_cast<std::size_t>(c)];
      if (x.dtype == DType::bf16) {
        const double value = to_float(x.row<bf16>(r)[c]);
        reinterpret_cast<bf16*>(copy.data())[r * x.cols + c] = to_bf16(static_cast<float>(value * factor));
      } else {
        const double value = x.row<float>(r)[c];
        reinterpret_cast<float*>(copy.data())[r * x.cols + c] = static_cast<float>(value * factor);
      }
    }
  }
  return copy;
}

/// The last rows % kRowMultiple rows, followed by zeros.
HostBuffer padded_tail(const Matrix& x, std::int64_t whole) {
  const std::size_t row_bytes = static_cast<std::size_t>(x.cols) * size_of(x.dtype);
  HostBuffer tail(row_bytes * kRowMultiple);
  for (std::int64_t r = whole; r < x.rows; ++r)
    std::memcpy(tail.data() + static_cast<std::size_t>(r - whole) * row_bytes, x.rows_from(r, 1).data,
                row_bytes);
  const std::size_t filled = static_cast<std::size_t>(x.rows - whole) * row_bytes;
  std::memset(tail.data() + filled, 0, tail.size() - filled);
  return tail;
}

/// out (rows, cols) = X[:, row..]ᵀ · X[:, col..]
void multiply(const Chunk& chunk, std::int64_t n, std::int64_t row, std::int64_t rows, std::int64_t col,
              std::int64_t cols, float* out) {
  GemmShape shape;
  shape.m = rows;
  shape.n = cols;
  shape.in = chunk.dtype;
  shape.transpose_a = true;
  shape.ldc = cols;
  const auto at = [&](const void* base, std::int64_t column) {
    return static_cast<const std::byte*>(base) + static_cast<std::size_t>(column) * size_of(chunk.dtype);
  };
  if (chunk.whole > 0) {
    shape.k = chunk.whole;
    shape.lda = shape.ldb = chunk.x_stride;
    gemm(shape, at(chunk.x, row), at(chunk.x, col), out);
  }
  if (chunk.tail != nullptr) {
    shape.k = kRowMultiple;
    shape.lda = shape.ldb = n;
    shape.accumulate = chunk.whole > 0;
    gemm(shape, at(chunk.tail, row), at(chunk.tail, col), out);
  }
}

struct Tile {
  std::int64_t panel, col, cols;
};

/// Output tiles, the same whatever the range; the large ones first.
std::vector<Tile> tiles_of(std::int64_t n, PanelRange range) {
  std::vector<Tile> tiles;
  for (std::int64_t panel = range.first; panel < range.end; ++panel)
    for (std::int64_t col = panel * kPanel; col < n; col += kTileColumns)
      tiles.push_back({panel, col, std::min(kTileColumns, n - col)});
  std::stable_sort(tiles.begin(), tiles.end(), [](const Tile& a, const Tile& b) { return a.cols > b.cols; });
  return tiles;
}

float* scratch_of_thread() {
  thread_local HostBuffer buffer(static_cast<std::size_t>(kPanel * kTileColumns) * sizeof(float));
  return reinterpret_cast<float*>(buffer.data());
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
      table().max_bits_f32(part.row<const unsigned>(0), part.rows, part.stride, part.cols, bits);
    else
      table().max_bits_bf16(part.row<const unsigned short>(0), part.rows, part.stride, part.cols, bits);
    for (std::int64_t c = 0; c < part.cols; ++c) values[c] = std::bit_cast<float>(bits[c]);
  });
}

void CpuKernels::accumulate_hessian(const Matrix& x, std::span<const int> exponents, PanelRange range,
                                    std::int64_t* sum) {
  GPTQ_EXPECT(static_cast<std::int64_t>(exponents.size()) == x.cols);
  GPTQ_EXPECT(x.dtype == DType::f32 || x.dtype == DType::bf16);
  GPTQ_EXPECT(range.first >= 0 && range.end <= TriangularPanels::panels(x.cols));
  if (x.rows == 0 || range.first >= range.end) return;
  const std::int64_t n = x.cols;

  // Where a product of two columns could leave f32's range the columns are scaled before it, else (cheaper)
  // after.
  const bool before = is_extreme(exponents);
  HostBuffer copy;
  Matrix source = x;
  std::vector<float> scale(exponents.size(), 1.0f);
  if (before) {
    copy = scaled_copy(x, exponents);
    source = {copy.data(), x.dtype, x.rows, n, n};
  } else {
    for (std::size_t c = 0; c < scale.size(); ++c) scale[c] = std::ldexp(1.0f, exponents[c]);
  }
  const std::int64_t whole = x.rows - x.rows % kRowMultiple;
  HostBuffer tail;
  if (whole < x.rows) tail = padded_tail(source, whole);
  const Chunk chunk{x.dtype, whole, source.data, source.stride, tail.data()};

  const std::vector<Tile> tiles = tiles_of(n, range);
  parallel_for(threads_, static_cast<std::int64_t>(tiles.size()), [&](std::int64_t i) {
    const Tile& tile = tiles[static_cast<std::size_t>(i)];
    const std::int64_t row = tile.panel * kPanel;
    const std::int64_t rows = std::min(kPanel, n - row);
    float* const product = scratch_of_thread();
    multiply(chunk, n, row, rows, tile.col, tile.cols, product);
    for (std::int64_t r = 0; r < rows; ++r)
      table().add_scaled(product + r * tile.cols, tile.cols, scale[static_cast<std::size_t>(row + r)],
                         scale.data() + tile.col, sum + TriangularPanels::index(n, row + r, tile.col));
  });
}

}  // namespace gptq
