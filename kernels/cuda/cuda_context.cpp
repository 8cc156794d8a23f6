#include "kernels/cuda/cuda_context.h"

#include <algorithm>
#include <iterator>

#include "base/error.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/pinned_ring.h"

namespace gptq::cuda {
namespace {

double gibibytes(std::int64_t bytes) {
  return static_cast<double>(bytes) / (1 << 30);
}

struct DeviceMemory {
  std::size_t free = 0, total = 0;
};

DeviceMemory device_memory() {
  DeviceMemory memory;
  GPTQ_CUDA(cudaMemGetInfo(&memory.free, &memory.total));
  return memory;
}

std::int64_t pool_figure(cudaMemPool_t pool, cudaMemPoolAttr which) {
  std::uint64_t value = 0;
  GPTQ_CUDA(cudaMemPoolGetAttribute(pool, which, &value));
  return static_cast<std::int64_t>(value);
}

}  // namespace

CudaContext::CudaContext(int device) : device_(device) {
  GPTQ_CUDA(cudaGetDeviceProperties(&properties_, device));
  remember_device(fmt::format("device {} ({})", device, properties_.name));
  check_device();
  enter_thread();
  try {
    // Streams that do not wait for the legacy default stream, which libraries may use behind our back.
    for (cudaStream_t* stream : {&compute_, &load_, &store_, &weights_})
      GPTQ_CUDA(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking));
    GPTQ_CUDA(cudaDeviceGetDefaultMemPool(&pool_, device));
    // The pool keeps what it has: giving memory back at every synchronization costs more than the work
    // between.
    std::uint64_t keep = UINT64_MAX;
    GPTQ_CUDA(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep));

    const std::size_t free_before = device_memory().free;
    GPTQ_CUDA(cublasLtCreate(&blas_));
    GPTQ_CUDA(cusolverDnCreate(&solver_));
    GPTQ_CUDA(cusolverDnSetStream(solver_, compute_));
    GPTQ_CUDA(cusolverDnSetDeterministicMode(solver_, CUSOLVER_DETERMINISTIC_RESULTS));
    const std::size_t free_after = device_memory().free;
    library_bytes_ = static_cast<std::int64_t>(free_before - std::min(free_before, free_after));

    blas_workspace_ = allocate(kBlasWorkspace);
    uploads_ = std::make_unique<UploadRing>(compute_);
    weight_uploads_ = std::make_unique<UploadRing>(weights_);
    downloads_ = std::make_unique<DownloadRing>(compute_);
  } catch (...) {
    give_back();
    throw;
  }
}

CudaContext::~CudaContext() {
  give_back();
}

void CudaContext::check_device() const {
  if (properties_.major < 8) {
    throw DeviceError(
        "{} has compute capability {}.{}; the CUDA backend needs 8.0 (A100) or newer. Use another node, or "
        "set "
        "compute.backend to cpu",
        remembered_device(), properties_.major, properties_.minor);
  }
  if (properties_.memoryPoolsSupported == 0) {
    throw DeviceError(
        "{} has no memory pools (cudaMallocAsync), as some virtual GPUs have not; use another node, or set "
        "compute.backend to cpu",
        remembered_device());
  }
}

void CudaContext::enter_thread() const {
  GPTQ_CUDA(cudaSetDevice(device_));
}

/// Errors are of no interest here: whatever failed was told when it was noticed, or nobody needs its result.
void CudaContext::give_back() noexcept {
  cudaSetDevice(device_);
  for (cudaStream_t stream : {compute_, load_, store_, weights_}) {
    if (stream != nullptr) cudaStreamSynchronize(stream);
  }
  scratch_.clear();
  blas_workspace_ = {};
  uploads_.reset();
  weight_uploads_.reset();
  downloads_.reset();
  if (solver_ != nullptr) cusolverDnDestroy(solver_);
  if (blas_ != nullptr) cublasLtDestroy(blas_);
  if (compute_ != nullptr) cudaStreamSynchronize(compute_);  // the memory above was given back in its order
  if (pool_ != nullptr) cudaMemPoolTrimTo(pool_, 0);
  for (cudaStream_t stream : {compute_, load_, store_, weights_}) {
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
}

void* CudaContext::blas_workspace() const {
  return blas_workspace_.data();
}

DeviceBuffer CudaContext::allocate_on(cudaStream_t stream, std::size_t bytes) {
  if (bytes == 0) return {};
  enter_thread();
  void* memory = nullptr;
  cudaError_t status = cudaMallocAsync(&memory, bytes, stream);
  if (status == cudaErrorMemoryAllocation) {
    // Once more with what is on its way back to the pool, and without the pieces that the pool keeps.
    cudaGetLastError();
    for (cudaStream_t each : {compute_, load_, store_, weights_}) GPTQ_CUDA(cudaStreamSynchronize(each));
    GPTQ_CUDA(cudaMemPoolTrimTo(pool_, 0));
    status = cudaMallocAsync(&memory, bytes, stream);
  }
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw DeviceError(
        "out of memory on {}: {:.2f} GiB wanted, {:.2f} of {:.2f} GiB free; this process has {:.2f} GiB. Use "
        "more "
        "GPUs, keep activations in host memory or on disk, or take fewer or shorter samples (see `gptq-hpc "
        "plan`); and see with nvidia-smi that nobody else uses the device",
        remembered_device(), gibibytes(static_cast<std::int64_t>(bytes)), gibibytes(free_bytes()),
        gibibytes(total_bytes()), gibibytes(pool_figure(pool_, cudaMemPoolAttrUsedMemCurrent)));
  }
  GPTQ_CUDA(status);
  return {static_cast<std::byte*>(memory), bytes, this, [](void* self, std::byte* data, std::size_t) {
            const auto* context = static_cast<CudaContext*>(self);
            cudaSetDevice(context->device_);
            cudaFreeAsync(data, context->compute_);
          }};
}

DeviceBuffer CudaContext::allocate_host(std::size_t bytes) {
  if (bytes == 0) return {};
  enter_thread();
  void* memory = nullptr;
  const cudaError_t status = cudaMallocHost(&memory, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw DeviceError(
        "{:.2f} GiB of pinned host memory cannot be had; keep less there (see `gptq-hpc plan`), use more "
        "nodes, "
        "or ask for more memory (sbatch --mem; ulimit -l)",
        gibibytes(static_cast<std::int64_t>(bytes)));
  }
  GPTQ_CUDA(status);
  auto* data = static_cast<std::byte*>(memory);
  const std::lock_guard lock(memory_mutex_);
  pinned_[data] = bytes;
  return {data, bytes, this, [](void* self, std::byte* given_back, std::size_t) {
            static_cast<CudaContext*>(self)->free_host(given_back);
          }};
}

void CudaContext::free_host(std::byte* memory) noexcept {
  cudaSetDevice(device_);
  for (cudaStream_t stream : {compute_, load_, store_, weights_}) cudaStreamSynchronize(stream);
  const std::lock_guard lock(memory_mutex_);
  pinned_.erase(memory);
  cudaFreeHost(memory);
}

bool CudaContext::is_pinned(const void* memory, std::size_t bytes) const {
  const auto* first = static_cast<const std::byte*>(memory);
  const std::lock_guard lock(memory_mutex_);
  const auto behind = pinned_.upper_bound(first);
  if (behind == pinned_.begin()) return false;
  const auto& [start, size] = *std::prev(behind);
  return first + bytes <= start + size;
}

void* CudaContext::scratch(int slot, std::size_t bytes) {
  DeviceBuffer& buffer = scratch_[slot];
  if (buffer.size() < bytes) {
    buffer = {};  // first, so that the larger one may lie in its place
    buffer = allocate(bytes);
  }
  return buffer.data();
}

void CudaContext::upload(void* to, const void* from_host, std::size_t bytes) {
  uploads_->upload(to, from_host, bytes);
}

void CudaContext::stage_weights(void* to, const void* from_host, std::size_t bytes) {
  enter_thread();
  weight_uploads_->upload(to, from_host, bytes);
}

void CudaContext::download(void* to_host, const void* from, std::size_t bytes) {
  if (is_pinned(to_host, bytes)) {
    if (bytes > 0) GPTQ_CUDA(cudaMemcpyAsync(to_host, from, bytes, cudaMemcpyDeviceToHost, compute_));
  } else {
    downloads_->download(to_host, from, bytes);
  }
  GPTQ_CUDA(cudaStreamSynchronize(compute_));
}

std::int64_t CudaContext::total_bytes() const {
  return static_cast<std::int64_t>(device_memory().total);
}

std::int64_t CudaContext::free_bytes() const {
  return static_cast<std::int64_t>(device_memory().free) +
         pool_figure(pool_, cudaMemPoolAttrReservedMemCurrent) -
         pool_figure(pool_, cudaMemPoolAttrUsedMemCurrent);
}

std::int64_t CudaContext::peak_bytes() const {
  return library_bytes_ + pool_figure(pool_, cudaMemPoolAttrUsedMemHigh);
}

}  // namespace gptq::cuda
