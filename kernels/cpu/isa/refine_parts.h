#pragma once

// The functions of one build of the refinement that lie in files of their own; see RefineTable.

#include "kernels/cpu/isa/refine_panel.h"
#include "kernels/cpu/isa/solve_panel.h"

namespace gptq::GPTQ_ISA {

void multiply_rows(const float* x, const float* rows, long stride, long k, long columns, bool accumulate,
                   float* c);

}  // namespace gptq::GPTQ_ISA
