#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.h"

/// Private to kernels/cpu: rows of layers in panels of 64, whose element (row, column) lies at column * 64 +
/// row. Rows that do not exist are zeros, so that every panel is computed alike.
namespace gptq {

/// At most kPanelRows rows of one part.
struct RowPanel {
  std::size_t part = 0;
  std::int64_t first = 0, count = 0;
};
std::vector<RowPanel> row_panels(std::span<const RowsToSolve> parts);

/// Rows [first, first + count) of w, any floating type, into panel (n, 64); column c to place position[c].
void load_rows(const Matrix& w, const RowPanel& rows, std::span<const std::int32_t> position, float* panel);

/// Rows of codes (rows, n) into a panel; those of rows that do not exist are 0.
void load_codes(const std::uint8_t* codes, const RowPanel& rows, std::span<const std::int32_t> position,
                std::uint8_t* panel);
/// And back.
void store_codes(const std::uint8_t* panel, const RowPanel& rows, std::span<const std::int32_t> position,
                 std::uint8_t* codes);

/// Scales and zeros (rows, groups) of a panel's rows into panels (groups, 64); those of rows that do not
/// exist are 1 and 0. Scales must be positive and finite, zeros at most max_code.
void load_grids(const f16* scales, const std::uint8_t* zeros, std::int64_t groups, const RowPanel& rows,
                int max_code, float* scale, float* zero);

}  // namespace gptq
