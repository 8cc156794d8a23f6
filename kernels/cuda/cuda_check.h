#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>

#include <string>

/// Private to the CUDA plugin: every call of a CUDA library goes through GPTQ_CUDA.
namespace gptq::cuda {

/// Throw DeviceError with the expression, its place, the device, what this thread was doing (enter_phase),
/// and what to do about the errors that users meet (out of memory, driver too old, no kernel image for the
/// device, a fault inside a kernel).
void check(cudaError_t status, const char* expression, const char* file, int line);
void check(cublasStatus_t status, const char* expression, const char* file, int line);
void check(cusolverStatus_t status, const char* expression, const char* file, int line);

/// How messages call the device of this process, e.g. "device 0 (NVIDIA H100 80GB HBM3)". Asking CUDA at the
/// time of an error would fail too.
void remember_device(const std::string& text);
std::string remembered_device();  ///< empty before the first remember_device

/// What the calling thread does from now on, for messages; phases nest.
void enter_phase(const char* name);
void leave_phase();

}  // namespace gptq::cuda

#define GPTQ_CUDA(expression) ::gptq::cuda::check((expression), #expression, __FILE__, __LINE__)
