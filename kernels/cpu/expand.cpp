#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"

namespace gptq {
namespace {

std::vector<double> units_of(std::span<const int> exponents) {
  std::vector<double> units(exponents.size());
  for (std::size_t c = 0; c < units.size(); ++c) units[c] = std::ldexp(1.0, -exponents[c]);
  return units;
}

std::vector<std::int64_t> positions_of(const FactorInput& input) {
  const auto n = static_cast<std::size_t>(input.n);
  GPTQ_EXPECT(input.exponents.size() == n && input.order.size() == n);
  std::vector<std::int64_t> positions(n);
  for (std::size_t p = 0; p < n; ++p)
    positions[static_cast<std::size_t>(input.order[p])] = static_cast<std::int64_t>(p);
  return positions;
}

/// The t-th tile (row, col) of an upper triangle, counted column by column.
std::pair<std::int64_t, std::int64_t> tile_of(std::int64_t t) {
  auto col = static_cast<std::int64_t>((std::sqrt(8.0 * static_cast<double>(t) + 1) - 1) / 2);
  while (col * (col + 1) / 2 > t) --col;
  while ((col + 1) * (col + 2) / 2 <= t) ++col;
  return {t - col * (col + 1) / 2, col};
}

}  // namespace

// Square tiles of columns i <= j, so that what a pair writes at (j, i) stays in the cache.
void CpuKernels::expand_hessian(const FactorInput& input, float* h) {
  constexpr std::int64_t kTile = 64;
  const std::int64_t n = input.n, tiles = (n + kTile - 1) / kTile;
  const std::vector<std::int64_t> position = positions_of(input);
  const std::vector<double> units = units_of(input.exponents);
  GPTQ_EXPECT(input.dead.size() == input.order.size());
  parallel_for(threads_, tiles * (tiles + 1) / 2, [&](std::int64_t t) {
    const auto [row, col] = tile_of(t);
    for (std::int64_t i = row * kTile; i < std::min(n, (row + 1) * kTile); ++i) {
      const double unit = input.scale * units[static_cast<std::size_t>(i)];
      const std::int64_t p = position[static_cast<std::size_t>(i)];
      for (std::int64_t j = std::max(i, col * kTile); j < std::min(n, (col + 1) * kTile); ++j) {
        const std::int64_t q = position[static_cast<std::size_t>(j)];
        double entry = static_cast<double>(input.sum[TriangularPanels::index(n, i, j)]) * unit *
                       units[static_cast<std::size_t>(j)];
        if (i == j) entry = (input.dead[static_cast<std::size_t>(i)] ? 1.0 : entry) + input.damping;
        h[p * n + q] = h[q * n + p] = static_cast<float>(entry);
      }
    }
  });
}

void CpuKernels::expand_cross(const FactorInput& input, const std::int64_t* cross,
                              std::span<const int> d_exponents, float* m) {
  const std::int64_t n = input.n;
  const auto size = static_cast<std::size_t>(n);
  GPTQ_EXPECT(input.order.size() == size && input.exponents.size() == size && d_exponents.size() == size);
  const std::vector<double> units = units_of(input.exponents);
  const std::vector<double> d_units = units_of(d_exponents);
  parallel_for(threads_, n, [&](std::int64_t p) {
    const std::int64_t i = input.order[static_cast<std::size_t>(p)];
    const double unit = input.scale * d_units[static_cast<std::size_t>(i)];
    for (std::int64_t q = 0; q < n; ++q) {
      const std::int64_t j = input.order[static_cast<std::size_t>(q)];
      m[p * n + q] = static_cast<float>(static_cast<double>(cross[i * n + j]) * unit *
                                        units[static_cast<std::size_t>(j)]);
    }
  });
}

void CpuKernels::expand_wanted(const FactorInput& input, const std::int64_t* cross, std::int64_t rows,
                               std::span<const int> d_exponents, float* wanted) {
  const std::int64_t n = input.n;
  GPTQ_EXPECT(static_cast<std::int64_t>(input.exponents.size()) == n &&
              static_cast<std::int64_t>(d_exponents.size()) == rows);
  const std::vector<double> units = units_of(input.exponents);
  const std::vector<double> d_units = units_of(d_exponents);
  parallel_for(threads_, rows, [&](std::int64_t row) {
    const double unit = input.scale * d_units[static_cast<std::size_t>(row)];
    for (std::int64_t col = 0; col < n; ++col)
      wanted[row * n + col] = static_cast<float>(static_cast<double>(cross[row * n + col]) * unit *
                                                 units[static_cast<std::size_t>(col)]);
  });
}

}  // namespace gptq
