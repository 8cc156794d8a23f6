#pragma once

// The functions of one build of the solve; see SolveTable for their contracts.

#include "kernels/cpu/isa/solve_panel.h"

namespace gptq::GPTQ_ISA {

void multiply(const float* x, const float* packed, long k, long tiles, bool triangular, bool accumulate,
              float* c);
void pack(const float* r, long stride, long k, long columns, float* packed);
void invert(const float* r, long stride, long n, double* work, float* inverse);
void search(const SearchTask& task);
void propagate(float* v, const float* e, const float* inverse, long first, long last, long from, long to);
void quantize(const ColumnsTask& task);
void add_squares(const float* x, long columns, double* sums);

}  // namespace gptq::GPTQ_ISA
