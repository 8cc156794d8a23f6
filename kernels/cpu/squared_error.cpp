#include <algorithm>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa/forward_rows.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/row_tiles.h"
#include "kernels/cpu/scratch.h"

namespace gptq {
namespace {

constexpr std::int64_t kTileRows = 64;

struct Sums {
  double error = 0, norm = 0;
};

/// A row as floats: itself, or a copy.
const float* as_floats(const Matrix& m, std::int64_t row, Scratch purpose) {
  if (m.dtype == DType::f32) return m.row<const float>(row);
  float* const copy = scratch<float>(purpose, m.cols);
  row_table().to_f32(m.row<const std::uint16_t>(row), copy, m.cols);
  return copy;
}

}  // namespace

void CpuKernels::squared_error(const Batch& batch, const Matrix& a, const Matrix& b, std::span<double> error,
                               std::span<double> norm) {
  const auto samples = static_cast<std::size_t>(batch.samples());
  GPTQ_EXPECT(a.rows == batch.rows() && b.rows == a.rows && b.cols == a.cols);
  GPTQ_EXPECT(error.size() == samples && norm.size() == samples);
  for (const Matrix* m : {&a, &b}) GPTQ_EXPECT(m->dtype == DType::f32 || m->dtype == DType::bf16);

  const std::vector<RowTile> tiles = row_tiles(batch, kTileRows);
  std::vector<Sums> sums(tiles.size());
  parallel_for(threads_, static_cast<std::int64_t>(tiles.size()), [&](std::int64_t t) {
    const RowTile& tile = tiles[static_cast<std::size_t>(t)];
    Sums local;
    for (std::int64_t row = tile.first; row < tile.first + tile.count; ++row)
      row_table().add_squared_error(as_floats(a, row, Scratch::tile_in), as_floats(b, row, Scratch::tile_out),
                                    a.cols, &local.error, &local.norm);
    sums[static_cast<std::size_t>(t)] = local;
  });

  // Tiles lie in the samples' order; so each sample's sums are added in an order of its own.
  std::size_t tile = 0;
  for (std::size_t s = 0; s < samples; ++s) {
    Sums total;
    for (; tile < tiles.size() && tiles[tile].first < batch.offsets[s + 1]; ++tile) {
      total.error += sums[tile].error;
      total.norm += sums[tile].norm;
    }
    error[s] = total.error;
    norm[s] = total.norm;
  }
}

}  // namespace gptq
