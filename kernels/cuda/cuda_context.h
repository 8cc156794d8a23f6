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

class UploadRing;
class DownloadRing;

/// One GPU as this rank uses it: its streams, library handles and memory. Everything the kernels share; it
/// outlives them and every buffer. Used by two threads at most: the one that computes, and one that prepares
/// weights (which uses nothing but weights_stream(), allocate_on(), allocate_host(), stage_weights() and
/// upload()).
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
  /// stream(). Throws DeviceError with wanted, free and total bytes. From any thread.
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
  /// As upload, in the order of weights_stream(). From any thread.
  void stage_weights(void* to, const void* from_host, std::size_t bytes);

  std::int64_t total_bytes() const;
  /// What could still be allocated: free on the device, or kept by this context's pool and unused.
  std::int64_t free_bytes() const;
  /// Most that was allocated here at one time, plus what the libraries took when they started. The driver's
  /// own share (about 0.5 GiB a process) and what NCCL takes are not in it: CUDA does not tell them.
  std::int64_t peak_bytes() const;

 private:
  void check_device() const;
  void give_back() noexcept;
  bool is_pinned(const void* memory, std::size_t bytes) const;
  void free_host(std::byte* memory) noexcept;

  int device_;
  cudaDeviceProp properties_{};
  cudaStream_t compute_ = nullptr, load_ = nullptr, store_ = nullptr, weights_ = nullptr;
  cublasLtHandle_t blas_ = nullptr;
  cusolverDnHandle_t solver_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  std::int64_t library_bytes_ = 0;  ///< what the libraries' handles took of the device, past the pool
  DeviceBuffer blas_workspace_;
  std::map<int, DeviceBuffer> scratch_;
  std::unique_ptr<UploadRing> uploads_, weight_uploads_;
  std::unique_ptr<DownloadRing> downloads_;
  mutable std::mutex memory_mutex_;
  std::map<const std::byte*, std::size_t> pinned_;  ///< what allocate_host gave and nobody gave back
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
  kScratchCrossInput,
  kScratchExponents,
  kScratchBias,
  kScratchFactor,
  kScratchFactorWork,
  kScratchSolveFirst,
  kScratchSolveLast = kScratchSolveFirst + 32,
};

}  // namespace gptq::cuda
