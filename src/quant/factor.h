#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quant/column_order.h"
#include "quant/hessian.h"

namespace gptq {

/// Everything the solve of a stage group needs, the same for each of its layers.
struct StageFactor {
  SolveColumns columns;
  DeviceBuffer r;  ///< (n, n) row-major upper triangular floats in the backend's memory, rows and columns in
                   ///< visiting order; empty: RTN
  DeviceBuffer hessian;     ///< (n, n) H itself, undamped, for refinement; empty: not asked for
  DeviceBuffer cross;       ///< C for the correction, (n, n) in visiting order, or towards the residual
                            ///< stream (rows, n) in the original order; empty: there is none
  double damping = 0;       ///< λ added to the diagonal
  double damp_percent = 0;  ///< the fraction that was needed
  std::int64_t damping_steps = 0;  ///< increases after the first try failed
  bool fallback = false;           ///< no damping helped: these layers are rounded to nearest

  const float* factor() const { return r.as<const float>(); }  ///< null: RTN
};

/// Bytes of the factor of n columns.
std::size_t factor_bytes(std::int64_t n);

/// Damps, orders and factors H. λ = damp_percent · mean of diag(H) over the columns that some token used; the
/// others (dead, H_ii = 0) get H_ii = 1. Where H + λI is not positive definite in double precision,
/// damp_percent grows by damp_auto_increment until it would reach 1; then fallback is set, r is empty and
/// damp_percent is the last value tried. Throws NumericalError if the diagonal holds NaN or infinity.
StageFactor factor_hessian(Backend& backend, const HessianSum& sum, const QuantizationSection& options);

/// Fill `hessian` and `cross` from the sums; every rank does so for itself.
void expand_hessian(Backend& backend, const HessianSum& sum, StageFactor& factor);
void expand_cross(Backend& backend, const HessianSum& sum, const CrossSum& cross, StageFactor& factor);

/// All but the matrices, for a broadcast beside r's own.
std::vector<std::byte> serialize(const StageFactor& factor);
StageFactor deserialize_factor(std::span<const std::byte> bytes);

}  // namespace gptq
