#pragma once

#include <vector>

#include "kernels/kernels.h"
#include "support/reference_quant.h"

/// What goes beyond plain GPTQ in the most obvious way, in double precision: the oracle of correction and
/// refinement.
namespace gptq::reference {

/// The values that codes, scales and zeros stand for: (rows, n).
Dense values_of(const QuantizedRows& rows, const SolveColumns& columns);

/// (w−q) H (w−q)ᵀ of every row; columns of H that are dead (H_ii = 0) count as weights of 0, as in the solve.
std::vector<double> exact_losses(const Dense& weight, const Dense& hessian, const QuantizedRows& rows,
                                 const SolveColumns& columns);

/// aᵀ b · 2 / rows
Dense cross(const Dense& a, const Dense& b);

/// X with X·A = B, by elimination with pivots. Throws where A is singular.
Dense solve_right(const Dense& b, const Dense& a);

/// W + α·W·(C − H)·(H + λI)⁻¹, dead columns' diagonal 1 + λ.
Dense correct(const Dense& weight, const Dense& c, const Dense& h, double damping, double alpha);

/// The codes (n) of the lowest (w−q) H (w−q)ᵀ of all there are, for one row and given scale and zero of each
/// column. Tries them all.
std::vector<int> best_codes(const std::vector<double>& w, const Dense& h, const std::vector<double>& scale,
                            const std::vector<int>& zero, int max_code);

/// Can changing the code of one column of one row lower its loss by more than `tolerance` times it?
bool is_optimal_by_column(const Dense& weight, const Dense& h, const QuantizedRows& rows,
                          const SolveColumns& columns, int max_code, double tolerance);

}  // namespace gptq::reference
