#include "kernels/cuda/column_sums.cuh"
#include "kernels/cuda/refine_tasks.h"

namespace gptq::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kSumThreads)
    difference_kernel(RefineCodes codes, const float* w, const float* h, float* difference,
                      RefineFigures figures) {
  __shared__ double terms_parts[kSumThreads];
  __shared__ double distance_parts[kSumThreads];
  const ColumnSums at;
  double terms = 0;
  double distance = 0;
  for (std::int64_t p = at.warp; p < codes.n; p += kSumWarps) {
    const std::int64_t place = p * codes.rows + at.row;
    const std::int64_t grid = codes.group[p] * codes.rows + at.row;
    const float unit = static_cast<float>(codes.codes[place]) - codes.zero[grid];
    const float value = fmaf(-unit, codes.scale[grid], w[place]);
    difference[place] = value;
    const double square = static_cast<double>(value) * value;
    distance += square;
    terms = fma(static_cast<double>(h[p * (codes.n + 1)]), square, terms);
  }
  terms = at.add(terms, terms_parts);
  distance = at.add(distance, distance_parts);
  if (at.warp != 0) return;
  figures.terms[at.row] = terms;
  figures.distance[at.row] = distance;
}

__global__ void __launch_bounds__(kSumThreads)
    objective_kernel(std::int64_t n, std::int64_t rows, const float* difference, const float* gradient,
                     double* objective) {
  __shared__ double parts[kSumThreads];
  const ColumnSums at;
  double sum = 0;
  for (std::int64_t p = at.warp; p < n; p += kSumWarps) {
    const std::int64_t place = p * rows + at.row;
    sum = fma(static_cast<double>(difference[place]), static_cast<double>(gradient[place]), sum);
  }
  sum = at.add(sum, parts);
  if (at.warp == 0) objective[at.row] = sum;
}

__global__ void __launch_bounds__(kThreads)
    compare_kernel(std::int64_t rows, double noise, RefineFigures before, RefineFigures after,
                   std::uint8_t* better) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= rows) return;
  const double margin = __dmul_rn(noise, fmax(before.terms[row], after.terms[row]));
  const bool fell = after.objective[row] < before.objective[row] - margin;
  better[row] = fell ? 1 : 0;
  if (!fell) return;
  before.objective[row] = after.objective[row];
  before.distance[row] = after.distance[row];
}

/// Block (x, y): 256 rows of columns, or groups, y, y + gridDim.y, …
template <typename T>
__global__ void __launch_bounds__(kThreads) restore_kernel(std::int64_t columns, std::int64_t rows,
                                                           const std::uint8_t* better, const T* old, T* now) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= rows || better[row] != 0) return;
  for (std::int64_t c = blockIdx.y; c < columns; c += gridDim.y) now[c * rows + row] = old[c * rows + row];
}

template <typename T>
void restore(const CudaContext& context, std::int64_t columns, std::int64_t rows, const std::uint8_t* better,
             const T* old, T* now) {
  const auto down = static_cast<unsigned>(columns < 65535 ? columns : 65535);
  launch(context, restore_kernel<T>, dim3(blocks_for(rows, kThreads), down), dim3(kThreads), 0, columns, rows,
         better, old, now);
}

}  // namespace

void find_difference(const CudaContext& context, const RefineCodes& codes, const float* w, const float* h,
                     float* difference, const RefineFigures& figures) {
  launch(context, difference_kernel, dim3(blocks_for(codes.rows, 32)), dim3(kSumThreads), 0, codes, w, h,
         difference, figures);
}

void find_objective(const CudaContext& context, std::int64_t n, std::int64_t rows, const float* difference,
                    const float* gradient, const RefineFigures& figures) {
  launch(context, objective_kernel, dim3(blocks_for(rows, 32)), dim3(kSumThreads), 0, n, rows, difference,
         gradient, figures.objective);
}

void keep_better(const CudaContext& context, const RefineCodes& codes, const std::uint8_t* old_codes,
                 const float* old_scale, double noise, const RefineFigures& before,
                 const RefineFigures& after, std::uint8_t* better) {
  launch(context, compare_kernel, dim3(blocks_for(codes.rows, kThreads)), dim3(kThreads), 0, codes.rows,
         noise, before, after, better);
  restore(context, codes.n, codes.rows, better, old_codes, codes.codes);
  restore(context, codes.groups, codes.rows, better, old_scale, codes.scale);
}

}  // namespace gptq::cuda
