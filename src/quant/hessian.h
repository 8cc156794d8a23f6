#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace gptq {

/// Exponents e_c for exact integer sums: every |2^(e_i+e_j) x_i x_j| summed over `tokens` rows stays below
/// 2^61. maximum: the columns' largest magnitudes over all ranks. A column of zeros gets exponent 0. Throws
/// NumericalError for a maximum that is NaN or infinite.
std::vector<int> hessian_exponents(std::span<const float> maximum, std::int64_t tokens);

/// The running exact sum XᵀX of one stage group, in the backend's memory.
struct HessianSum {
  std::int64_t n = 0;
  std::int64_t tokens = 0;  ///< over all ranks
  std::vector<int> exponents;
  DeviceBuffer panels;  ///< TriangularPanels::size(n) integers

  std::int64_t* values() const { return panels.as<std::int64_t>(); }
  std::size_t count() const { return panels.size() / sizeof(std::int64_t); }
  /// H = scale · 2^-(e_i+e_j) · sum
  double scale() const;
};

/// A sum of nothing.
HessianSum make_hessian_sum(Backend& backend, std::span<const float> maximum, std::int64_t tokens);

/// The running exact sum C = (Xᵣ − X)ᵀX of one stage group: Xᵣ is the input as the full-precision model has
/// it, X as the quantized one has it; in the backend's memory.
struct CrossSum {
  std::int64_t n = 0;                     ///< 0: not needed
  std::int64_t tokens = 0;                ///< in it, over all ranks
  std::vector<int> difference_exponents;  ///< of Xᵣ − X; X's own are those of its HessianSum
  DeviceBuffer sum;                       ///< (n, n) integers

  std::int64_t* values() const { return sum.as<std::int64_t>(); }
  std::size_t count() const { return sum.size() / sizeof(std::int64_t); }
};

/// A sum of nothing. The columns' largest magnitudes over all ranks bound those of the difference.
CrossSum make_cross_sum(Backend& backend, std::span<const float> reference_maximum,
                        std::span<const float> maximum, std::int64_t tokens);

/// H = (2 / tokens) XᵀX as a full symmetric matrix (n, n) of host doubles; for looking at small ones.
std::vector<double> to_hessian(Backend& backend, const HessianSum& sum);

}  // namespace gptq
