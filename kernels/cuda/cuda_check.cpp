#include "kernels/cuda/cuda_check.h"

#include <mutex>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace gptq::cuda {
namespace {

std::mutex device_mutex;
std::string device_text;
thread_local std::vector<std::string> phases;

const char* advice_for(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return "the device (or host memory for pinned buffers) is full: use more GPUs or fewer samples, see "
             "`gptq-hpc plan`";
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorUnsupportedPtxVersion:
      return "the NVIDIA driver of this node is too old for this program's CUDA: update it, or build "
             "gptq-hpc with an older CUDA toolkit";
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      return "this program was built for other GPUs: build it with CMAKE_CUDA_ARCHITECTURES set to this "
             "one's";
    case cudaErrorDevicesUnavailable:
    case cudaErrorDeviceAlreadyInUse:
      return "another process has the GPU for itself: start one rank a GPU, or let the GPU be shared (its "
             "compute mode, or MPS)";
    case cudaErrorSystemNotReady:
      return "the GPU's services (fabric manager, MPS) are not ready: tell the site's administrators";
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
      return "the GPU's memory or link is faulty: leave this node out (sbatch --exclude); started again, the "
             "job goes on from its last checkpoint";
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorIllegalInstruction:
    case cudaErrorHardwareStackError:
    case cudaErrorAssert:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorUnknown:
      return "a kernel failed and this process has lost the GPU; earlier work may be the cause (run again "
             "with CUDA_LAUNCH_BLOCKING=1 to find it). Started again, the job goes on from its last "
             "checkpoint";
    default:
      return "started again, the job goes on from its last checkpoint";
  }
}

const char* name_of(cusolverStatus_t status) {
  switch (status) {
    case CUSOLVER_STATUS_NOT_INITIALIZED:
      return "CUSOLVER_STATUS_NOT_INITIALIZED";
    case CUSOLVER_STATUS_ALLOC_FAILED:
      return "CUSOLVER_STATUS_ALLOC_FAILED";
    case CUSOLVER_STATUS_INVALID_VALUE:
      return "CUSOLVER_STATUS_INVALID_VALUE";
    case CUSOLVER_STATUS_ARCH_MISMATCH:
      return "CUSOLVER_STATUS_ARCH_MISMATCH";
    case CUSOLVER_STATUS_EXECUTION_FAILED:
      return "CUSOLVER_STATUS_EXECUTION_FAILED";
    case CUSOLVER_STATUS_INTERNAL_ERROR:
      return "CUSOLVER_STATUS_INTERNAL_ERROR";
    case CUSOLVER_STATUS_NOT_SUPPORTED:
      return "CUSOLVER_STATUS_NOT_SUPPORTED";
    default:
      return "an error of cuSOLVER";
  }
}

/// The device and phase, as " on device 0 (NVIDIA …) during \"solve\"".
std::string where() {
  std::string text;
  if (const std::string device = remembered_device(); !device.empty()) text = " on " + device;
  if (!phases.empty()) text += " during \"" + phases.back() + "\"";
  return text;
}

[[noreturn]] void fail(const std::string& error, const char* advice, const char* expression, const char* file,
                       int line) {
  const std::string_view path(file);
  throw DeviceError("{}{}: {} (from {}, {}:{})", error, where(), advice, expression,
                    path.substr(path.rfind('/') + 1), line);
}

}  // namespace

void remember_device(const std::string& text) {
  const std::lock_guard lock(device_mutex);
  device_text = text;
}

std::string remembered_device() {
  const std::lock_guard lock(device_mutex);
  return device_text;
}

void enter_phase(const char* name) {
  phases.emplace_back(name);
}

void leave_phase() {
  if (!phases.empty()) phases.pop_back();
}

void check(cudaError_t status, const char* expression, const char* file, int line) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // errors that leave the context usable are forgotten, since they are told here
  fail(fmt::format("CUDA error {} ({})", cudaGetErrorName(status), cudaGetErrorString(status)),
       advice_for(status), expression, file, line);
}

void check(cublasStatus_t status, const char* expression, const char* file, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const bool memory = status == CUBLAS_STATUS_ALLOC_FAILED || status == CUBLAS_STATUS_NOT_INITIALIZED;
  fail(fmt::format("cuBLAS error {}", cublasLtGetStatusName(status)),
       advice_for(memory ? cudaErrorMemoryAllocation : cudaSuccess), expression, file, line);
}

void check(cusolverStatus_t status, const char* expression, const char* file, int line) {
  if (status == CUSOLVER_STATUS_SUCCESS) return;
  const bool memory = status == CUSOLVER_STATUS_ALLOC_FAILED || status == CUSOLVER_STATUS_NOT_INITIALIZED;
  fail(fmt::format("cuSOLVER error {} ({})", static_cast<int>(status), name_of(status)),
       advice_for(memory ? cudaErrorMemoryAllocation : cudaSuccess), expression, file, line);
}

}  // namespace gptq::cuda
