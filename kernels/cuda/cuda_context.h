#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "base/device_buffer.h"

/// Private to the CUDA plugin.
namespace gptq::cuda {

/// One GPU as this rank uses it: its streams, library handles and memory. Everything the kernels share; it
/// outlives them and every buffer. Used by two threads at most: the one that computes, and one that prepares
/// weights (which uses nothing but weights_stream(), allocate_on() and stage_weights()).
class CudaContext {
 public:
  /// device: CUDA's number in this process. Throws DeviceError if it is absent, too old (below compute
  /// capability 8.0), or the driver too old for this program's CUDA.
  explicit CudaContext(int device);
  ~CudaContext();
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  /// Makes this context's device the calling thread's; every thread calls it once before anything else.
  void enter_thread() const;

  int device() const { return device_; }
  const cudaDeviceProp& properties() const { return properties_; }
  int multiprocessors() const { return properties_.multiProcessorCount; }
  std::size_t largest_shared_memory() const { return properties_.sharedMemPerBlockOptin; }

  cudaStream_t stream() const { return compute_; }  ///< of all kernels
  cudaStream_t load_stream() const { return load_; }
  cudaStream_t store_stream() const { return store_; }
  cudaStream_t weights_stream() const { return weights_; }
  cublasLtHandle_t blas() const { return blas_; }
  /// Working memory of cuBLASLt calls on stream(): always the same size, because it decides which algorithms
  /// may be chosen, and they decide bits.
  void* blas_workspace() const;
  static constexpr std::size_t kBlasWorkspace = 64u << 20;
  cusolverDnHandle_t solver() const { return solver_; }  ///< on stream()

  /// Device memory in stream order: valid for work put into `stream` from now on. Given back in the order of
  /// stream(). Throws DeviceError with wanted, free and total bytes.
  DeviceBuffer allocate_on(cudaStream_t stream, std::size_t bytes);
  DeviceBuffer allocate(std::size_t bytes) { return allocate_on(compute_, bytes); }
  DeviceBuffer allocate_host(std::size_t bytes);  ///< pinned
  /// Scratch of the kernels themselves (Backend::scratch has slots of its own): grown to the largest request
  /// and kept; valid until the next request for the same slot.
  void* scratch(int slot, std::size_t bytes);

  /// Copies host memory of any kind to the device in the order of stream(); the host memory may be reused at
  /// once.
  void upload(void* to, const void* from_host, std::size_t bytes);
  /// Copies to host memory and waits for stream().
  void download(void* to_host, const void* from, std::size_t bytes);
  /// As upload, in the order of weights_stream(), from the thread that prepares weights.
  void stage_weights(void* to, const void* from_host, std::size_t bytes);

  std::int64_t total_bytes() const;
  std::int64_t free_bytes() const;
  std::int64_t peak_bytes() const;  ///< most that this context held

 private:
  struct Stager;

  int device_;
  cudaDeviceProp properties_{};
  cudaStream_t compute_ = nullptr, load_ = nullptr, store_ = nullptr, weights_ = nullptr;
  cublasLtHandle_t blas_ = nullptr;
  cusolverDnHandle_t solver_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  DeviceBuffer blas_workspace_;
  std::map<int, DeviceBuffer> scratch_;
  std::unique_ptr<Stager> upload_stager_, weights_stager_;  ///< rings of pinned memory
  mutable std::mutex memory_mutex_;
  std::int64_t pinned_bytes_ = 0;
};

/// Slots of CudaContext::scratch, one purpose each.
enum Scratch : int {
  kScratchIds,
  kScratchTargets,
  kScratchLogits,
  kScratchFlags,
  kScratchGemm,
  kScratchHessianProduct,
  kScratchHessianInput,
  kScratchExponents,
  kScratchFactor,
  kScratchFactorWork,
  kScratchSolveFirst,
  kScratchSolveLast = kScratchSolveFirst + 32,
};

}  // namespace gptq::cuda
