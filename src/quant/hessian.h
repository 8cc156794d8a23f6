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

/// What a correction aims at.
enum class CorrectionTarget {
  output,   ///< what the layer's weights make of the full-precision stream's input
  residual  ///< the full-precision residual stream behind the layer, errors of the layers before included
};

/// The running exact sum C = DᵀX of one stage group, in the backend's memory. X: the input as the quantized
/// model has it. D: towards the layer's output, Xᵣ − X with the input Xᵣ of the full-precision model; towards
/// the residual stream, the outputs that would lead to it.
struct CrossSum {
  CorrectionTarget target = CorrectionTarget::output;
  std::int64_t rows = 0;         ///< columns of D; 0: not needed
  std::int64_t n = 0;            ///< columns of X
  std::int64_t tokens = 0;       ///< in it, over all ranks
  std::vector<int> d_exponents;  ///< of D; X's own are those of its HessianSum
  DeviceBuffer sum;              ///< (rows, n) integers

  std::int64_t* values() const { return sum.as<std::int64_t>(); }
  std::size_t count() const { return sum.size() / sizeof(std::int64_t); }
};

/// A sum of nothing. d_bound: what no magnitude in D's columns exceeds on any rank; n: columns of X.
CrossSum make_cross_sum(Backend& backend, CorrectionTarget target, std::span<const float> d_bound,
                        std::int64_t n, std::int64_t tokens);

/// H = (2 / tokens) XᵀX as a full symmetric matrix (n, n) of host doubles; for looking at small ones.
std::vector<double> to_hessian(Backend& backend, const HessianSum& sum);

}  // namespace gptq
