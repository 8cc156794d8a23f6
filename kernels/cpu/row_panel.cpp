#include "kernels/cpu/row_panel.h"

#include <algorithm>

#include "base/error.h"

namespace gptq {
namespace {

constexpr std::int64_t kRows = SolveOptions::kPanelRows;
constexpr std::int64_t kCodeLine = 64;  // columns transposed at a time

/// Transposes a few columns at a time: their target lines stay in the cache.
template <typename T>
void load(const Matrix& w, const RowPanel& rows, std::span<const std::int32_t> position, float* panel) {
  constexpr std::int64_t line = 16;
  for (std::int64_t begin = 0; begin < w.cols; begin += line) {
    const std::int64_t end = std::min(begin + line, w.cols);
    for (std::int64_t r = 0; r < rows.count; ++r) {
      const T* row = w.row<const T>(rows.first + r);
      for (std::int64_t c = begin; c < end; ++c)
        panel[position[static_cast<std::size_t>(c)] * kRows + r] = to_float(row[c]);
    }
  }
}

}  // namespace

std::vector<RowPanel> row_panels(std::span<const RowsToSolve> parts) {
  std::vector<RowPanel> panels;
  for (std::size_t part = 0; part < parts.size(); ++part) {
    const std::int64_t rows = parts[part].weight.rows;
    for (std::int64_t first = 0; first < rows; first += kRows)
      panels.push_back({part, first, std::min(kRows, rows - first)});
  }
  return panels;
}

void load_rows(const Matrix& w, const RowPanel& rows, std::span<const std::int32_t> position, float* panel) {
  if (rows.count < kRows) std::fill(panel, panel + w.cols * kRows, 0.0f);
  switch (w.dtype) {
    case DType::f32:
      return load<float>(w, rows, position, panel);
    case DType::bf16:
      return load<bf16>(w, rows, position, panel);
    case DType::f16:
      return load<f16>(w, rows, position, panel);
    default:
      contract_violation("weights are of a floating type", __FILE__, __LINE__);
  }
}

void load_codes(const std::uint8_t* codes, const RowPanel& rows, std::span<const std::int32_t> position,
                std::uint8_t* panel) {
  const auto n = static_cast<std::int64_t>(position.size());
  if (rows.count < kRows) std::fill(panel, panel + n * kRows, std::uint8_t{0});
  for (std::int64_t begin = 0; begin < n; begin += kCodeLine) {
    for (std::int64_t r = 0; r < rows.count; ++r) {
      const std::uint8_t* row = codes + (rows.first + r) * n;
      for (std::int64_t c = begin; c < std::min(begin + kCodeLine, n); ++c)
        panel[position[static_cast<std::size_t>(c)] * kRows + r] = row[c];
    }
  }
}

void store_codes(const std::uint8_t* panel, const RowPanel& rows, std::span<const std::int32_t> position,
                 std::uint8_t* codes) {
  const auto n = static_cast<std::int64_t>(position.size());
  for (std::int64_t begin = 0; begin < n; begin += kCodeLine) {
    for (std::int64_t r = 0; r < rows.count; ++r) {
      std::uint8_t* row = codes + (rows.first + r) * n;
      for (std::int64_t c = begin; c < std::min(begin + kCodeLine, n); ++c)
        row[c] = panel[position[static_cast<std::size_t>(c)] * kRows + r];
    }
  }
}

void load_grids(const f16* scales, const std::uint8_t* zeros, std::int64_t groups, const RowPanel& rows,
                int max_code, float* scale, float* zero) {
  for (std::int64_t g = 0; g < groups; ++g) {
    for (std::int64_t r = 0; r < kRows; ++r) {
      const std::int64_t from = (rows.first + r) * groups + g;
      const bool exists = r < rows.count;
      scale[g * kRows + r] = exists ? to_float(scales[from]) : 1.0f;
      zero[g * kRows + r] = exists ? static_cast<float>(zeros[from]) : 0.0f;
      GPTQ_EXPECT(scale[g * kRows + r] > 0 && scale[g * kRows + r] <= 65504.0f);
      GPTQ_EXPECT(zero[g * kRows + r] <= static_cast<float>(max_code));
    }
  }
}

}  // namespace gptq
