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

/// Entries of H, undamped, dead columns as they are; any columns i and j.
class HessianEntries {
 public:
  explicit HessianEntries(const FactorInput& input) : input_(input), units_(units_of(input.exponents)) {}

  double operator()(std::int64_t i, std::int64_t j) const {
    const std::int64_t entry = input_.sum[TriangularPanels::index(input_.n, std::min(i, j), std::max(i, j))];
    return static_cast<double>(entry) * input_.scale * units_[static_cast<std::size_t>(i)] *
           units_[static_cast<std::size_t>(j)];
  }

 private:
  const FactorInput& input_;
  std::vector<double> units_;
};

void check(const FactorInput& input) {
  const auto n = static_cast<std::size_t>(input.n);
  GPTQ_EXPECT(input.exponents.size() == n && input.order.size() == n);
}

/// matrix (n, n)[p][q] = entry(order[p], order[q]), in tiles, whose transposed accesses stay in the cache.
template <typename Entry>
void fill_in_order(int threads, const FactorInput& input, float* matrix, const Entry& entry) {
  constexpr std::int64_t kTile = 128;
  const std::int64_t n = input.n;
  const std::int64_t tiles = (n + kTile - 1) / kTile;
  parallel_for(threads, tiles * tiles, [&](std::int64_t tile) {
    const std::int64_t first = tile / tiles * kTile, left = tile % tiles * kTile;
    for (std::int64_t p = first; p < std::min(n, first + kTile); ++p) {
      const std::int64_t i = input.order[static_cast<std::size_t>(p)];
      for (std::int64_t q = left; q < std::min(n, left + kTile); ++q)
        matrix[p * n + q] = static_cast<float>(entry(i, input.order[static_cast<std::size_t>(q)]));
    }
  });
}

}  // namespace

void CpuKernels::expand_hessian(const FactorInput& input, float* h) {
  check(input);
  GPTQ_EXPECT(input.dead.size() == input.order.size());
  const HessianEntries hessian(input);
  fill_in_order(threads_, input, h, [&](std::int64_t i, std::int64_t j) {
    if (i != j) return hessian(i, j);
    return (input.dead[static_cast<std::size_t>(i)] ? 1.0 : hessian(i, i)) + input.damping;
  });
}

void CpuKernels::expand_cross(const FactorInput& input, const std::int64_t* cross,
                              std::span<const int> reference_exponents, float* m) {
  check(input);
  GPTQ_EXPECT(reference_exponents.size() == input.exponents.size());
  const std::vector<double> units = units_of(input.exponents);
  const std::vector<double> reference_units = units_of(reference_exponents);
  fill_in_order(threads_, input, m, [&](std::int64_t i, std::int64_t j) {
    return static_cast<double>(cross[i * input.n + j]) * input.scale *
           reference_units[static_cast<std::size_t>(i)] * units[static_cast<std::size_t>(j)];
  });
}

}  // namespace gptq
