#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.h"

namespace gptq {

/// Exponents e_c for exact integer sums: every |2^(e_i+e_j) x_i x_j| summed over `tokens` rows stays below
/// 2^61. maximum: the columns' largest magnitudes over all ranks. A column of zeros gets exponent 0.
std::vector<int> hessian_exponents(std::span<const float> maximum, std::int64_t tokens);

/// The running exact sum XᵀX of one stage group.
struct HessianSum {
  std::int64_t n = 0;
  std::int64_t tokens = 0;  ///< over all ranks
  std::vector<int> exponents;
  std::vector<std::int64_t> panels;  ///< TriangularPanels::size(n)
};

HessianSum make_hessian_sum(std::span<const float> maximum, std::int64_t tokens);

/// H = (2 / tokens) XᵀX as a full symmetric matrix (n, n) in double; entry (i, j) = sum_ij · 2^-(e_i+e_j) ·
/// 2/tokens.
std::vector<double> to_hessian(const HessianSum& sum);

}  // namespace gptq
