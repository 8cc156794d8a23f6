#include <algorithm>
#include <cmath>
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

/// Calls pair(i, j, H_ij) for all columns i <= j; H undamped, dead columns as they are. Square tiles, so that
/// what a pair reads or writes at (j, i) stays in the cache.
template <typename Pair>
void for_pairs(int threads, const FactorInput& input, const Pair& pair) {
  constexpr std::int64_t kTile = 64;
  const std::int64_t n = input.n, tiles = (n + kTile - 1) / kTile;
  const std::vector<double> units = units_of(input.exponents);
  parallel_for(threads, tiles * (tiles + 1) / 2, [&](std::int64_t t) {
    // The t-th of the tiles (row, col) with row <= col, column by column.
    auto col = static_cast<std::int64_t>((std::sqrt(8.0 * static_cast<double>(t) + 1) - 1) / 2);
    while (col * (col + 1) / 2 > t) --col;
    while ((col + 1) * (col + 2) / 2 <= t) ++col;
    const std::int64_t row = t - col * (col + 1) / 2;
    for (std::int64_t i = row * kTile; i < std::min(n, (row + 1) * kTile); ++i) {
      const double unit = input.scale * units[static_cast<std::size_t>(i)];
      const std::int64_t first = std::max(i, col * kTile), end = std::min(n, (col + 1) * kTile);
      if (first >= end) continue;
      const std::int64_t* const sum = input.sum + TriangularPanels::index(n, i, first);
      for (std::int64_t j = first; j < end; ++j)
        pair(i, j, static_cast<double>(sum[j - first]) * unit * units[static_cast<std::size_t>(j)]);
    }
  });
}

}  // namespace

void CpuKernels::expand_hessian(const FactorInput& input, float* h) {
  const std::vector<std::int64_t> position = positions_of(input);
  GPTQ_EXPECT(input.dead.size() == input.order.size());
  for_pairs(threads_, input, [&](std::int64_t i, std::int64_t j, double entry) {
    const std::int64_t p = position[static_cast<std::size_t>(i)], q = position[static_cast<std::size_t>(j)];
    if (i == j) entry = (input.dead[static_cast<std::size_t>(i)] ? 1.0 : entry) + input.damping;
    h[p * input.n + q] = h[q * input.n + p] = static_cast<float>(entry);
  });
}

void CpuKernels::expand_cross(const FactorInput& input, const std::int64_t* cross,
                              std::span<const int> reference_exponents, float* m) {
  const std::int64_t n = input.n;
  const auto size = static_cast<std::size_t>(n);
  GPTQ_EXPECT(input.order.size() == size && input.exponents.size() == size &&
              reference_exponents.size() == size);
  const std::vector<double> units = units_of(input.exponents);
  const std::vector<double> reference_units = units_of(reference_exponents);
  parallel_for(threads_, n, [&](std::int64_t p) {
    const std::int64_t i = input.order[static_cast<std::size_t>(p)];
    const double unit = input.scale * reference_units[static_cast<std::size_t>(i)];
    for (std::int64_t q = 0; q < n; ++q) {
      const std::int64_t j = input.order[static_cast<std::size_t>(q)];
      m[p * n + q] = static_cast<float>(static_cast<double>(cross[i * n + j]) * unit *
                                        units[static_cast<std::size_t>(j)]);
    }
  });
}

}  // namespace gptq
