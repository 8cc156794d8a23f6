#pragma once

#include <cstdint>

#include "base/device_buffer.h"
#include "kernels/cuda/cuda_context.h"
#include "kernels/kernels.h"

/// Private to kernels/cuda: a Hessian's sum as the kernels that read it in visiting order see it
/// (hessian_entry.cuh).
namespace gptq::cuda {

struct HessianView {
  const std::int64_t* sum;
  const int* order;          ///< (n): the column visited p-th
  const double* unit;        ///< (n), by column: 2^-exponents[column]
  const std::uint8_t* dead;  ///< (n), by column
  double scale, damping;
  int n;
};

/// FactorInput's host arrays, one behind the other in device memory.
struct HessianTables {
  DeviceBuffer memory;
  HessianView view{};

  HessianTables(CudaContext& context, const FactorInput& input);
};

}  // namespace gptq::cuda
