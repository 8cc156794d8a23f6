#include "kernels/cpu/isa/refine_parts.h"
#include "kernels/cpu/isa/solve_errors.h"
#include "kernels/cpu/isa/solve_parts.h"
#include "kernels/cpu/isa/vector_math.h"

namespace gptq::GPTQ_ISA {
namespace {

constexpr long kRows = kSolveRows;

void load_codes(const unsigned char* codes, float* whole) {
  for (long r = 0; r < kRows; ++r) whole[r] = static_cast<float>(codes[r]);
}

/// A step d of the value of column j changes (w-q) H (w-q)ᵀ by d² H_jj - 2 d g_j: best is the code nearest to
/// the one at g_j / H_jj from here, and it is taken if that sum is negative.
void descend_part(const DescendTask& task, long first, long last) {
  const Vector nearest = broadcast(kNearest);
  const Vector top = broadcast(static_cast<float>(task.max_code));
  for (long j = first; j < last; ++j) {
    Vector g[kVectors];
    for (long k = 0; k < kVectors; ++k) g[k] = load_vector(task.g + j * kRows + k * kLanes);
    subtract_errors(task.step, task.h + j * kSolveBatch, first, j, g);

    const long group = static_cast<long>(task.group[j]) * kRows;
    const Vector curve = broadcast(task.h[j * kSolveBatch + j]);
    const Vector reach = broadcast(1.0f) / curve;
    float whole[kRows];
    load_codes(task.codes + j * kRows, whole);
    for (long k = 0; k < kVectors; ++k) {
      const long lane = k * kLanes;
      const Vector scale = load_vector(task.scale + group + lane);
      const Vector code = load_vector(whole + lane);
      // Bounds of the move, in codes; the sum holds the nearest whole number in its low bits.
      Vector move = multiply_add(g[k] * reach, broadcast(1.0f) / scale, nearest);
      move = smaller(larger(move, nearest - code), nearest + (top - code)) - nearest;
      const Vector step = move * scale;
      const Vector change = step * multiply_subtract(step, curve, g[k] + g[k]);
      store_vector(whole + lane, where_negative(change, code + move, code));
      store_vector(task.step + j * kRows + lane, where_negative(change, step, broadcast(0.0f)));
    }
    store_codes(whole, task.codes + j * kRows);
  }
}

void descend(const DescendTask& task) {
  constexpr long kPart = 16;  // steps reach later columns four at a time, except within so many columns
  for (long first = task.first; first < task.last; first += kPart) {
    const long last = first + kPart < task.last ? first + kPart : task.last;
    propagate(task.g, task.step, task.h, first, last, task.first, first);
    descend_part(task, first, last);
  }
}

/// A step d of the scale changes the objective by d² curve - 2 d gain.
void rescale(const RescaleTask& task) {
  for (long r = 0; r < kRows; ++r) {
    const float wish = task.scale[r] + task.gain[r] / task.curve[r];
    const float rounded = to_positive_half(wish > 0.0f ? wish : 0.0f);
    const float step = rounded - task.scale[r];
    const bool better = task.curve[r] > 0.0f && step * (step * task.curve[r] - 2.0f * task.gain[r]) < 0.0f;
    task.step[r] = better ? step : 0.0f;
    task.scale[r] = better ? rounded : task.scale[r];
  }
}

void find_units(const unsigned char* codes, const float* zero, float* units) {
  for (long r = 0; r < kRows; ++r) units[r] = static_cast<float>(codes[r]) - zero[r];
}

void find_difference(const float* w, const unsigned char* codes, const float* scale, const float* zero,
                     float* difference) {
  for (long r = 0; r < kRows; ++r) difference[r] = w[r] - (static_cast<float>(codes[r]) - zero[r]) * scale[r];
}

void subtract_scaled(const float* x, const float* factor, long columns, float* y) {
  for (long c = 0; c < columns; ++c)
    for (long r = 0; r < kRows; ++r) y[c * kRows + r] -= x[c * kRows + r] * factor[r];
}

void add_products(const float* x, const float* y, long columns, double* sums) {
  double part[kRows] = {};
  for (long c = 0; c < columns; ++c)
    for (long r = 0; r < kRows; ++r)
      part[r] += static_cast<double>(x[c * kRows + r]) * static_cast<double>(y[c * kRows + r]);
  for (long r = 0; r < kRows; ++r) sums[r] += part[r];
}

}  // namespace

extern const RefineTable refine_table = {multiply_rows,   descend,         rescale,     find_units,
                                         find_difference, subtract_scaled, add_products};

}  // namespace gptq::GPTQ_ISA
