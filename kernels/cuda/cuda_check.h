#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>

/// Private to the CUDA plugin: every call of a CUDA library goes through GPTQ_CUDA.
namespace gptq::cuda {

/// Throw DeviceError with the expression, its place, the device's number and name, and what to do about the
/// errors that users meet (out of memory, driver too old, no kernel image for the device, a fault inside a
/// kernel).
void check(cudaError_t status, const char* expression, const char* file, int line);
void check(cublasStatus_t status, const char* expression, const char* file, int line);
void check(cusolverStatus_t status, const char* expression, const char* file, int line);

}  // namespace gptq::cuda

#define GPTQ_CUDA(expression) ::gptq::cuda::check((expression), #expression, __FILE__, __LINE__)
