#include <cmath>
#include <vector>

#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/hessian_entry.cuh"

namespace gptq::cuda {
namespace {

/// Block (x, y): columns [x·kEntryThreads, …) of rows y, y + gridDim.y, …
__global__ void __launch_bounds__(kEntryThreads) expand_hessian_kernel(HessianView view, float* h) {
  const int q = static_cast<int>(blockIdx.x * kEntryThreads + threadIdx.x);
  if (q >= view.n) return;
  const int j = view.order[q];
  for (int p = static_cast<int>(blockIdx.y); p < view.n; p += static_cast<int>(gridDim.y))
    h[static_cast<std::int64_t>(p) * view.n + q] =
        static_cast<float>(damped_hessian_entry(view, view.order[p], j));
}

/// The same for scale · C.
__global__ void __launch_bounds__(kEntryThreads)
    expand_cross_kernel(HessianView view, const std::int64_t* cross, const double* d_unit, float* m) {
  const int q = static_cast<int>(blockIdx.x * kEntryThreads + threadIdx.x);
  if (q >= view.n) return;
  const int j = view.order[q];
  for (int p = static_cast<int>(blockIdx.y); p < view.n; p += static_cast<int>(gridDim.y)) {
    const int i = view.order[p];
    const double sum = static_cast<double>(cross[static_cast<std::int64_t>(i) * view.n + j]);
    m[static_cast<std::int64_t>(p) * view.n + q] =
        static_cast<float>(sum * view.scale * d_unit[i] * view.unit[j]);
  }
}

/// The same for rows that are no columns of the input; original order.
__global__ void __launch_bounds__(kEntryThreads)
    expand_wanted_kernel(HessianView view, const std::int64_t* cross, std::int64_t rows, const double* d_unit,
                         float* wanted) {
  const int col = static_cast<int>(blockIdx.x * kEntryThreads + threadIdx.x);
  if (col >= view.n) return;
  for (std::int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const std::int64_t at = row * view.n + col;
    wanted[at] =
        static_cast<float>(static_cast<double>(cross[at]) * view.scale * d_unit[row] * view.unit[col]);
  }
}

DeviceBuffer units_of(CudaContext& context, std::span<const int> exponents) {
  std::vector<double> unit;
  for (const int exponent : exponents) unit.push_back(std::ldexp(1.0, -exponent));
  DeviceBuffer there = context.allocate(unit.size() * sizeof(double));
  context.upload(there.data(), unit.data(), unit.size() * sizeof(double));
  return there;
}

}  // namespace

void CudaKernels::expand_hessian(const FactorInput& input, float* h) {
  const HessianTables tables(context_, input);
  launch(context_, expand_hessian_kernel, grid_of_entries(input.n), dim3(kEntryThreads), 0, tables.view, h);
}

void CudaKernels::expand_cross(const FactorInput& input, const std::int64_t* cross,
                               std::span<const int> d_exponents, float* m) {
  const HessianTables tables(context_, input);
  GPTQ_EXPECT(static_cast<std::int64_t>(d_exponents.size()) == input.n);
  const DeviceBuffer unit = units_of(context_, d_exponents);
  launch(context_, expand_cross_kernel, grid_of_entries(input.n), dim3(kEntryThreads), 0, tables.view, cross,
         unit.as<double>(), m);
}

void CudaKernels::expand_wanted(const FactorInput& input, const std::int64_t* cross, std::int64_t rows,
                                std::span<const int> d_exponents, float* wanted) {
  const HessianTables tables(context_, input);
  GPTQ_EXPECT(static_cast<std::int64_t>(d_exponents.size()) == rows);
  const DeviceBuffer unit = units_of(context_, d_exponents);
  launch(context_, expand_wanted_kernel, grid_of_entries(input.n), dim3(kEntryThreads), 0, tables.view, cross,
         rows, unit.as<double>(), wanted);
}

}  // namespace gptq::cuda
