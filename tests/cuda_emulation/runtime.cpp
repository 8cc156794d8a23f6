#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

#include "tests/cuda_emulation/block.h"
#include "tests/cuda_emulation/launch.h"
#include "tests/cuda_emulation/memory.h"
#include "tests/cuda_emulation/streams.h"
#include "tests/cuda_emulation/symbols.h"

/// The CUDA runtime's devices, streams, events and launches, as far as the project uses them.
namespace emulation {
namespace {

using Lock = std::lock_guard<std::recursive_mutex>;

constexpr int kVersion = CUDART_VERSION;
constexpr std::size_t kShared = 48 * 1024;
constexpr std::size_t kMostShared = 227 * 1024;

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

std::map<const void*, std::size_t>& shared_limits() {
  static auto& limits = *new std::map<const void*, std::size_t>;  // of kernels that had theirs raised
  return limits;
}

int devices() {
  const char* given = std::getenv("GPTQ_EMULATION_DEVICES");
  return given == nullptr ? 1 : std::atoi(given);
}

std::atomic<bool> lost_device = false;

/// Counts the kernels, for GPTQ_EMULATION_FAULT.
bool next_kernel_fails() {
  static const char* given = std::getenv("GPTQ_EMULATION_FAULT");
  static long kernels = 0;
  int device = 0;
  long number = 0;
  if (given == nullptr || std::sscanf(given, "%d:%ld", &device, &number) != 2) return false;
  return current_device == device && ++kernels == number;
}

cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* kernel) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64) return cudaErrorInvalidConfiguration;
  const auto raised = shared_limits().find(kernel);
  const std::size_t limit = raised == shared_limits().end() ? kShared : raised->second;
  return config.dynamicSmemBytes > limit ? cudaErrorInvalidValue : cudaSuccess;
}

}  // namespace

cudaError_t note(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
}

cudaError_t standing() {
  return lost_device ? cudaErrorIllegalAddress : cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread_body) {
  const Lock lock(machine_mutex());
  if (const cudaError_t status = check_launch(config, kernel); status != cudaSuccess) return note(status);
  submit(config.stream, [config, kernel, thread_body = std::move(thread_body), fails = next_kernel_fails()] {
    lost_device = lost_device || fails;
    if (lost_device) return;
    run_grid(kernel, config.gridDim, config.blockDim, config.dynamicSmemBytes, thread_body);
    check_guards("kernel " + function_name(kernel));
  });
  return standing();
}

}  // namespace emulation

using emulation::Lock;
using emulation::machine_mutex;
using emulation::note;

// ---- devices

cudaError_t cudaGetDeviceCount(int* count) {
  *count = emulation::devices();
  return note(*count == 0 ? cudaErrorNoDevice : cudaSuccess);
}

cudaError_t cudaGetDevice(int* device) {
  *device = emulation::current_device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= emulation::devices()) return note(cudaErrorInvalidDevice);
  emulation::current_device = device;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= emulation::devices()) return note(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "Emulated GPU");
  properties->uuid.bytes[0] = static_cast<char>(device + 1);
  properties->major = 9;
  properties->minor = 0;
  properties->multiProcessorCount = 4;
  properties->totalGlobalMem = emulation::device_bytes();
  properties->sharedMemPerBlock = emulation::kShared;
  properties->sharedMemPerBlockOptin = emulation::kMostShared;
  properties->sharedMemPerMultiprocessor = emulation::kMostShared + 1024;
  properties->reservedSharedMemPerBlock = 1024;
  properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->maxBlocksPerMultiProcessor = 32;
  std::fill_n(properties->maxThreadsDim, 2, 1024);
  properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = 0x7fffffff;
  properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
  properties->l2CacheSize = 50 << 20;
  properties->memoryBusWidth = 5120;
  properties->asyncEngineCount = 3;
  properties->concurrentKernels = 1;
  properties->unifiedAddressing = 1;
  properties->canMapHostMemory = 1;
  properties->memoryPoolsSupported = 1;
  properties->pciBusID = device + 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  if (const cudaError_t status = cudaGetDeviceProperties(&properties, device); status != cudaSuccess)
    return status;
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = emulation::kMostShared;
      break;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      break;
    case cudaDevAttrUnifiedAddressing:
      *value = 1;
      break;
    case cudaDevAttrClockRate:
      *value = 1'980'000;
      break;  // kHz
    case cudaDevAttrMemoryClockRate:
      *value = 2'619'000;
      break;  // kHz
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = 5120;
      break;
    case cudaDevAttrL2CacheSize:
      *value = properties.l2CacheSize;
      break;
    default:
      return note(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  if (device < 0 || device >= emulation::devices()) return note(cudaErrorInvalidDevice);
  std::snprintf(text, static_cast<std::size_t>(length), "0000:%02X:00.0", device + 1);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = emulation::kVersion;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = emulation::kVersion;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  const Lock lock(machine_mutex());
  emulation::drain_all();
  return emulation::standing();
}

// ---- errors

cudaError_t cudaGetLastError() {
  return std::exchange(emulation::last_error, cudaSuccess);
}
cudaError_t cudaPeekAtLastError() {
  return emulation::last_error;
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    default:
      return "another CUDA error";
  }
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    default:
      return "another error of the emulated device";
  }
}

// ---- streams and events

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  const Lock lock(machine_mutex());
  *stream = emulation::create_stream(flags != cudaStreamNonBlocking);
  return emulation::standing();
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock(machine_mutex());
  emulation::destroy_stream(stream);
  return emulation::standing();
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock(machine_mutex());
  emulation::drain(stream);
  return emulation::standing();
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const Lock lock(machine_mutex());
  return emulation::idle(stream) ? emulation::standing() : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Lock lock(machine_mutex());
  emulation::make_wait(stream, event);
  return emulation::standing();
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  const Lock lock(machine_mutex());
  emulation::submit(stream, [function, data] { function(data); });
  return emulation::standing();
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  const Lock lock(machine_mutex());
  *event = emulation::create_event((flags & cudaEventDisableTiming) == 0);
  return emulation::standing();
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Lock lock(machine_mutex());
  emulation::destroy_event(event);
  return emulation::standing();
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Lock lock(machine_mutex());
  emulation::record_event(event, stream);
  return emulation::standing();
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Lock lock(machine_mutex());
  emulation::drain_to(event);
  return emulation::standing();
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Lock lock(machine_mutex());
  return emulation::reached(event) ? emulation::standing() : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t first, cudaEvent_t last) {
  const Lock lock(machine_mutex());
  *milliseconds = emulation::elapsed(first, last);
  return *milliseconds < 0 ? note(cudaErrorInvalidResourceHandle) : emulation::standing();
}

// ---- kernels

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  const Lock lock(machine_mutex());
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return emulation::standing();
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_cast<std::size_t>(value) > emulation::kMostShared)
    return note(cudaErrorInvalidValue);
  emulation::shared_limits()[kernel] = static_cast<std::size_t>(value);
  return emulation::standing();
}

/// Never meant to be reached: emulation.h leads launches to emulation::launch_kernel.
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void*, void**) {
  std::abort();
}
