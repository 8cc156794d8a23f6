#pragma once

#include "backend/backend.h"

/// What make_backend and the CUDA plugin agree on (base/plugin.h opens it).
namespace gptq {

constexpr const char* kCudaPluginFile = "gptq_hpc_cuda.so";
constexpr const char* kCudaPluginVariable = "GPTQ_HPC_CUDA_PLUGIN";
constexpr const char* kCudaPluginEntry = "gptq_hpc_cuda_backend";
constexpr int kCudaMajor = 13;  ///< the libraries carry it in their names

/// Gives a new Backend, owned by the caller. Throws DeviceError with the reason and what to do about it.
using CudaPluginEntry = Backend* (*)(const BackendOptions& options);

}  // namespace gptq
