#include "kernels/cuda/refine_scale.cuh"

#include "kernels/cuda/column_sums.cuh"
#include "kernels/cuda/refine_tasks.h"

namespace gptq::cuda {
namespace {

constexpr int kThreads = 256;

/// Block (x, y): 256 rows of columns y, y + gridDim.y, …
__global__ void __launch_bounds__(kThreads)
    find_units_kernel(RefineCodes codes, const int* positions, int width, int group, float* units) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= codes.rows) return;
  const float zero = codes.zero[group * codes.rows + row];
  for (int k = static_cast<int>(blockIdx.y); k < width; k += static_cast<int>(gridDim.y))
    units[k * codes.rows + row] = static_cast<float>(codes.codes[positions[k] * codes.rows + row]) - zero;
}

/// 32 rows a block.
__global__ void __launch_bounds__(kSumThreads) rescale_kernel(const RefineScaleTask task) {
  __shared__ double gain_parts[kSumThreads];
  __shared__ double curve_parts[kSumThreads];
  const ColumnSums at;
  double gain = 0;
  double curve = 0;
  for (int k = at.warp; k < task.width; k += kSumWarps) {
    const double unit = task.units[k * task.rows + at.row];
    const std::int64_t place = task.positions[k] * task.rows + at.row;
    gain = fma(unit, static_cast<double>(task.gradient[place]), gain);
    curve = fma(unit, static_cast<double>(task.product[place]), curve);
  }
  gain = at.add(gain, gain_parts);
  curve = at.add(curve, curve_parts);
  if (at.warp != 0) return;
  const ScaleStep best = best_scale(task.scale[at.row], static_cast<float>(gain), static_cast<float>(curve));
  task.step[at.row] = best.step;
  task.scale[at.row] = best.scale;
  if (best.step != 0.0f) atomicOr(task.changed, 1);
}

/// gradient -= product · step; blocks as in find_units_kernel.
__global__ void __launch_bounds__(kThreads) subtract_kernel(const RefineScaleTask task) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= task.rows) return;
  const float step = task.step[row];
  if (step == 0.0f) return;
  for (std::int64_t p = blockIdx.y; p < task.n; p += gridDim.y) {
    const std::int64_t place = p * task.rows + row;
    task.gradient[place] = fmaf(-task.product[place], step, task.gradient[place]);
  }
}

unsigned blocks_of_columns(std::int64_t columns) {
  return static_cast<unsigned>(columns < 65535 ? columns : 65535);
}

}  // namespace

void find_units(const CudaContext& context, const RefineCodes& codes, const int* positions, int width,
                int group, float* units) {
  launch(context, find_units_kernel, dim3(blocks_for(codes.rows, kThreads), blocks_of_columns(width)),
         dim3(kThreads), 0, codes, positions, width, group, units);
}

void rescale_group(const CudaContext& context, const RefineScaleTask& task) {
  launch(context, rescale_kernel, dim3(blocks_for(task.rows, 32)), dim3(kSumThreads), 0, task);
  launch(context, subtract_kernel, dim3(blocks_for(task.rows, kThreads), blocks_of_columns(task.n)),
         dim3(kThreads), 0, task);
}

}  // namespace gptq::cuda
