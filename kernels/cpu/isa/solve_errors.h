#pragma once

// For the files of this folder only: what the column loops of the solve and of the refinement share. Internal
// linkage, as in solve_vector.h.

#include "kernels/cpu/isa/solve_panel.h"
#include "kernels/cpu/isa/solve_vector.h"

namespace gptq::GPTQ_ISA {
namespace {

/// v -= e[from, to) · U[from, to)_j, with row j of the transposed U.
inline void subtract_errors(const float* e, const float* inverse_row, long from, long to, Vector* v) {
  for (long i = from; i < to; ++i) {
    const Vector factor = broadcast(-inverse_row[i]);
    for (long k = 0; k < kVectors; ++k)
      v[k] = multiply_add(load_vector(e + i * kSolveRows + k * kLanes), factor, v[k]);
  }
}

/// The codes of one column, from whole numbers.
inline void store_codes(const float* whole, unsigned char* codes) {
  unsigned char local[kSolveRows];  // a copy: `codes` might alias anything
  for (long r = 0; r < kSolveRows; ++r) local[r] = static_cast<unsigned char>(static_cast<int>(whole[r]));
  __builtin_memcpy(codes, local, kSolveRows);
}

}  // namespace
}  // namespace gptq::GPTQ_ISA
