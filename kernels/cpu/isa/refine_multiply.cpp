#include "kernels/cpu/isa/refine_parts.h"
#include "kernels/cpu/isa/solve_vector.h"

namespace gptq::GPTQ_ISA {
namespace {

// With the columns of a tile these vectors of rows fill the registers.
constexpr long kTile = 6;
constexpr long kWide = kLanes == 16 ? 4 : 2;

template <long columns>
void multiply_tile(const float* x, const float* rows, long stride, long k, bool accumulate, float* c) {
  for (long v = 0; v < kVectors; v += kWide) {
    Vector sum[columns][kWide];
    for (long j = 0; j < columns; ++j)
      for (long i = 0; i < kWide; ++i)
        sum[j][i] = accumulate ? load_vector(c + j * kSolveRows + (v + i) * kLanes) : broadcast(0.0f);
    for (long row = 0; row < k; ++row) {
      Vector a[kWide];
      for (long i = 0; i < kWide; ++i) a[i] = load_vector(x + row * kSolveRows + (v + i) * kLanes);
      for (long j = 0; j < columns; ++j) {
        const Vector b = broadcast(rows[j * stride + row]);
        for (long i = 0; i < kWide; ++i) sum[j][i] = multiply_add(a[i], b, sum[j][i]);
      }
    }
    for (long j = 0; j < columns; ++j)
      for (long i = 0; i < kWide; ++i) store_vector(c + j * kSolveRows + (v + i) * kLanes, sum[j][i]);
  }
}

}  // namespace

void multiply_rows(const float* x, const float* rows, long stride, long k, long columns, bool accumulate,
                   float* c) {
  long j = 0;
  for (; j + kTile <= columns; j += kTile)
    multiply_tile<kTile>(x, rows + j * stride, stride, k, accumulate, c + j * kSolveRows);
  for (; j + 2 <= columns; j += 2)
    multiply_tile<2>(x, rows + j * stride, stride, k, accumulate, c + j * kSolveRows);
  if (j < columns) multiply_tile<1>(x, rows + j * stride, stride, k, accumulate, c + j * kSolveRows);
}

}  // namespace gptq::GPTQ_ISA
