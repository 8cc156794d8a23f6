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

/// The same for scale · C − H.
__global__ void __launch_bounds__(kEntryThreads)
    expand_cross_kernel(HessianView view, const std::int64_t* cross, const double* reference_unit, float* m) {
  const int q = static_cast<int>(blockIdx.x * kEntryThreads + threadIdx.x);
  if (q >= view.n) return;
  const int j = view.order[q];
  for (int p = static_cast<int>(blockIdx.y); p < view.n; p += static_cast<int>(gridDim.y)) {
    const int i = view.order[p];
    const double sum = static_cast<double>(cross[static_cast<std::int64_t>(i) * view.n + j]);
    const double between = sum * view.scale * reference_unit[i] * view.unit[j];
    m[static_cast<std::int64_t>(p) * view.n + q] = static_cast<float>(between - hessian_entry(view, i, j));
  }
}

}  // namespace

void CudaKernels::expand_hessian(const FactorInput& input, float* h) {
  const HessianTables tables(context_, input);
  launch(context_, expand_hessian_kernel, grid_of_entries(input.n), dim3(kEntryThreads), 0, tables.view, h);
}

void CudaKernels::expand_cross(const FactorInput& input, const std::int64_t* cross,
                               std::span<const int> reference_exponents, float* m) {
  const HessianTables tables(context_, input);
  GPTQ_EXPECT(static_cast<std::int64_t>(reference_exponents.size()) == input.n);
  std::vector<double> unit;
  for (const int exponent : reference_exponents) unit.push_back(std::ldexp(1.0, -exponent));
  const DeviceBuffer unit_there = context_.allocate(unit.size() * sizeof(double));
  context_.upload(unit_there.data(), unit.data(), unit.size() * sizeof(double));
  launch(context_, expand_cross_kernel, grid_of_entries(input.n), dim3(kEntryThreads), 0, tables.view, cross,
         unit_there.as<double>(), m);
}

}  // namespace gptq::cuda
