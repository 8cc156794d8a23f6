#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/cpu_linear.h"
#include "kernels/cpu/isa/forward_rows.h"
#include "kernels/cpu/library.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace gptq {
namespace {

constexpr std::int64_t kTileRows = 256;
constexpr std::int64_t kWholeOutputs = 2048;  // up to here one panel, whose product writes straight into y
constexpr std::int64_t kPanelOutputs = 1024;

std::byte* element(const Matrix& m, std::int64_t row, std::int64_t col) {
  return static_cast<std::byte*>(m.data) + static_cast<std::size_t>(row * m.stride + col) * size_of(m.dtype);
}

template <typename From, typename To, typename Round>
void convert_elements(const From* in, To* out, std::int64_t count, Round round) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = round(to_float(in[i]));
}

template <typename From>
void convert_row(const From* in, void* out, DType to, std::int64_t count) {
  if (to == DType::f32) convert_elements(in, static_cast<float*>(out), count, [](float v) { return v; });
  if (to == DType::bf16) convert_elements(in, static_cast<bf16*>(out), count, to_bf16);
}

void convert_row(const Matrix& from, std::int64_t row, void* out, DType to) {
  const void* const in = element(from, row, 0);
  if (from.dtype == to) {
    std::memcpy(out, in, static_cast<std::size_t>(from.cols) * size_of(to));
  } else if (from.dtype == DType::f32) {
    row_table().to_bf16(static_cast<const float*>(in), static_cast<std::uint16_t*>(out), from.cols);
  } else if (from.dtype == DType::bf16) {
    row_table().to_f32(static_cast<const std::uint16_t*>(in), static_cast<float*>(out), from.cols);
  } else {
    convert_row(static_cast<const f16*>(in), out, to, from.cols);
  }
}

CpuLinear::Panel make_panel(const Matrix& weight, std::span<const float> bias, DType compute,
                            std::int64_t first, std::int64_t count) {
  CpuLinear::Panel panel{first, PackedMatrix(weight.cols, count, compute), {}, {}};
  auto* const dense = static_cast<std::byte*>(
      scratch_bytes(Scratch::tile_in, static_cast<std::size_t>(count * weight.cols) * size_of(compute)));
  for (std::int64_t r = 0; r < count; ++r) {
    convert_row(weight, first + r, dense + static_cast<std::size_t>(r * weight.cols) * size_of(compute),
                compute);
  }
  panel.weight.fill(dense, true);
  if (!bias.empty()) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(float);
    panel.bias_values = HostBuffer(bytes);
    std::memcpy(panel.bias_values.data(), bias.data() + first, bytes);
    panel.bias = dnnl::memory({{1, count}, dnnl::memory::data_type::f32, dnnl::memory::format_tag::ab},
                              library_engine(), panel.bias_values.data());
  }
  return panel;
}

/// y (count rows) = or += tile, a dense matrix of y's type.
void write_tile(const std::byte* tile, std::int64_t cols, const RowTile& rows, std::int64_t first_col,
                const Matrix& y, bool accumulate) {
  const std::size_t row_bytes = static_cast<std::size_t>(cols) * size_of(y.dtype);
  for (std::int64_t r = 0; r < rows.count; ++r, tile += row_bytes) {
    std::byte* const out = element(y, rows.first + r, first_col);
    if (!accumulate) {
      std::memcpy(out, tile, row_bytes);
    } else if (y.dtype == DType::f32) {
      row_table().add_f32(reinterpret_cast<const float*>(tile), reinterpret_cast<float*>(out), cols);
    } else {
      row_table().add_bf16(reinterpret_cast<const std::uint16_t*>(tile),
                           reinterpret_cast<std::uint16_t*>(out), cols);
    }
  }
}

void apply_panel(const Matrix& x, const RowTile& rows, const CpuLinear::Panel& panel, const Matrix& y,
                 bool accumulate) {
  const std::int64_t height = product_rows(rows.count);
  const std::int64_t width = panel.weight.n();
  const void* const input = dense_rows(x, rows);
  // The library's fast kernels want a dense result; whether y is one here depends on the sample and shapes
  // only.
  if (height == rows.count && y.stride == width) {
    return packed_product(height, input, panel.weight, panel.bias, element(y, rows.first, 0), y.dtype,
                          accumulate);
  }
  auto* const tile = static_cast<std::byte*>(
      scratch_bytes(Scratch::tile_out, static_cast<std::size_t>(height * width) * size_of(y.dtype)));
  packed_product(height, input, panel.weight, panel.bias, tile, y.dtype, false);
  write_tile(tile, width, rows, panel.first, y, accumulate);
}

}  // namespace

const CpuLinear& cpu_linear(const LinearWeights& weights) {
  const auto* const own = dynamic_cast<const CpuLinear*>(&weights);
  GPTQ_EXPECT(own != nullptr);
  return *own;
}

std::vector<RowTile> row_tiles(const Batch& batch, std::int64_t height) {
  std::vector<RowTile> tiles;
  for (std::int64_t s = 0; s < batch.samples(); ++s) {
    for (std::int64_t row = batch.offsets[s]; row < batch.offsets[s + 1]; row += height) {
      tiles.push_back({row, std::min(height, batch.offsets[s + 1] - row)});
    }
  }
  return tiles;
}

const void* dense_rows(const Matrix& x, const RowTile& tile) {
  const std::int64_t height = product_rows(tile.count);
  if (x.stride == x.cols && height == tile.count) return element(x, tile.first, 0);
  const std::size_t row_bytes = static_cast<std::size_t>(x.cols) * size_of(x.dtype);
  auto* const copy =
      static_cast<std::byte*>(scratch_bytes(Scratch::tile_in, static_cast<std::size_t>(height) * row_bytes));
  for (std::int64_t r = 0; r < tile.count; ++r) {
    std::memcpy(copy + static_cast<std::size_t>(r) * row_bytes, element(x, tile.first + r, 0), row_bytes);
  }
  std::memset(copy + static_cast<std::size_t>(tile.count) * row_bytes, 0,
              static_cast<std::size_t>(height - tile.count) * row_bytes);
  return copy;
}

std::unique_ptr<LinearWeights> CpuKernels::prepare_linear(const Matrix& weight, std::span<const float> bias,
                                                          DType compute) {
  GPTQ_EXPECT(compute == DType::f32 || compute == DType::bf16);
  GPTQ_EXPECT(weight.dtype == DType::f32 || weight.dtype == DType::f16 || weight.dtype == DType::bf16);
  GPTQ_EXPECT(weight.rows > 0 && weight.cols > 0);
  GPTQ_EXPECT(bias.empty() || static_cast<std::int64_t>(bias.size()) == weight.rows);
  auto result = std::make_unique<CpuLinear>(weight.cols, weight.rows, compute);
  const std::int64_t width = weight.rows <= kWholeOutputs ? weight.rows : kPanelOutputs;
  const std::int64_t panels = (weight.rows + width - 1) / width;
  std::vector<std::unique_ptr<CpuLinear::Panel>> made(static_cast<std::size_t>(panels));
  parallel_for(threads_, panels, [&](std::int64_t p) {
    const std::int64_t count = std::min(width, weight.rows - p * width);
    made[p] = std::make_unique<CpuLinear::Panel>(make_panel(weight, bias, compute, p * width, count));
  });
  for (auto& panel : made) result->panels().push_back(std::move(*panel));
  return result;
}

std::unique_ptr<LinearWeights> CpuKernels::prepare_quantized(const QuantizedWeights& weights,
                                                             std::span<const float> bias, DType compute) {
  return prepare_linear(dequantize(weights).matrix(), bias, compute);
}

void CpuKernels::linear(const Batch& batch, const Matrix& x, const LinearWeights& weights, const Matrix& y,
                        bool accumulate) {
  const CpuLinear& own = cpu_linear(weights);
  GPTQ_EXPECT(x.dtype == own.compute() && x.cols == own.in_features() && x.rows == batch.rows());
  GPTQ_EXPECT(y.cols == own.out_features() && y.rows == x.rows);
  GPTQ_EXPECT(y.dtype == DType::f32 || y.dtype == x.dtype);
  const std::vector<RowTile> tiles = row_tiles(batch, kTileRows);
  const auto panels = static_cast<std::int64_t>(own.panels().size());
  parallel_for(threads_, static_cast<std::int64_t>(tiles.size()) * panels, [&](std::int64_t task) {
    apply_panel(x, tiles[task / panels], own.panels()[task % panels], y, accumulate);
  });
}

}  // namespace gptq
