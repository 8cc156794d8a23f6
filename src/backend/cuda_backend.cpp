#include <nvtx3/nvToolsExt.h>

#include <array>
#include <cstdlib>
#include <map>
#include <mutex>

#include "backend/backend.h"
#include "backend/cuda_plugin.h"
#include "base/error.h"
#include "base/plugin.h"
#include "base/process.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/cuda_kernels.h"

/// The CUDA backend; compiled into the CUDA plugin only.
namespace gptq {
namespace {

constexpr std::array kQueues{Queue::compute, Queue::load, Queue::store};

std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

/// CUDA's number of this rank's device. Throws DeviceError if this process has none that works.
int choose_device(int rank_on_node) {
  int driver = 0;
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  cudaDriverGetVersion(&driver);
  if (status == cudaErrorInsufficientDriver && driver == 0) {
    throw DeviceError(
        "this node has no NVIDIA driver (libcuda.so.1), so no GPU can be used: run on a GPU node, or set "
        "compute.backend to cpu");
  }
  if (status == cudaErrorInsufficientDriver) {
    throw DeviceError(
        "the NVIDIA driver of this node supports CUDA {} at most, this program needs {}: have the driver "
        "updated, "
        "build gptq-hpc with an older CUDA toolkit, or set compute.backend to cpu",
        version_text(driver), version_text(CUDART_VERSION));
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && devices == 0)) {
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    throw DeviceError(
        "no GPU is visible to this process (CUDA_VISIBLE_DEVICES is {}): ask the batch system for GPUs "
        "(sbatch "
        "--gpus-per-node), or set compute.backend to cpu",
        visible == nullptr ? "not set" : fmt::format("\"{}\"", visible));
  }
  GPTQ_CUDA(status);
  return rank_on_node % devices;
}

std::string description_of(const cuda::CudaContext& context) {
  int driver = 0;
  GPTQ_CUDA(cudaDriverGetVersion(&driver));
  const cudaDeviceProp& device = context.properties();
  return fmt::format("cuda: {} ({:.1f} GiB, compute {}.{}, driver {}, CUDA {})", device.name,
                     static_cast<double>(context.total_bytes()) / (1 << 30), device.major, device.minor,
                     version_text(driver), version_text(CUDART_VERSION));
}

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const BackendOptions& options)
      : threads_(options.threads > 0 ? options.threads : available_cores()),
        context_(choose_device(options.device)),
        description_(description_of(context_)),
        kernels_(context_) {
    try {
      for (cudaEvent_t& event : reached_) GPTQ_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    } catch (...) {
      destroy_events();
      throw;
    }
  }
  ~CudaBackend() override {
    buffers_.clear();
    scratch_.clear();
    destroy_events();
  }
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  std::string name() const override { return "cuda"; }
  /// The architecture and the number of multiprocessors decide how work is cut, by our kernels and cuBLAS.
  std::string kind() const override {
    const cudaDeviceProp& device = context_.properties();
    return fmt::format("cuda {}.{}, {} multiprocessors", device.major, device.minor,
                       device.multiProcessorCount);
  }
  std::string describe() const override { return description_; }
  bool fast_bf16() const override { return true; }
  int threads() const override { return threads_; }
  Kernels& kernels() override { return kernels_; }

  bool shares_host_memory() const override { return false; }
  std::string device_id() const override {
    std::string id =
        host_name() + "/GPU-";  // the uuid tells the slices of one GPU apart, its bus number does not
    for (const char byte : context_.properties().uuid.bytes)
      id += fmt::format("{:02x}", static_cast<unsigned char>(byte));
    return id;
  }
  int device_number() const override { return context_.device(); }
  std::int64_t memory_bytes() const override { return context_.total_bytes(); }
  std::int64_t free_memory_bytes() const override { return context_.free_bytes(); }
  std::int64_t peak_memory_bytes() const override { return context_.peak_bytes(); }

  DeviceBuffer allocate(std::size_t bytes) override;
  DeviceBuffer allocate_host(std::size_t bytes) override { return context_.allocate_host(bytes); }
  void* scratch(int slot, std::size_t bytes) override;

  void upload(void* to, const void* from_host, std::size_t bytes) override {
    context_.upload(to, from_host, bytes);
  }
  void download(void* to_host, const void* from, std::size_t bytes) override {
    context_.download(to_host, from, bytes);
  }
  void copy(void* to, const void* from, std::size_t bytes) override {
    if (bytes == 0 || to == from) return;
    GPTQ_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, context_.stream()));
  }
  void set_zero(void* memory, std::size_t bytes) override {
    if (bytes > 0) GPTQ_CUDA(cudaMemsetAsync(memory, 0, bytes, context_.stream()));
  }

  void copy_in_queue(Queue queue, void* to, const void* from, std::size_t bytes) override;
  void order_after(Queue earlier, Queue later) override;
  void synchronize() override;
  void* native_queue() override { return context_.stream(); }

  void enter_range(const char* name) override {
    nvtxRangePushA(name);
    cuda::enter_phase(name);
  }
  void leave_range() override {
    nvtxRangePop();
    cuda::leave_phase();
  }

 private:
  /// Memory lives in the order of the compute queue. Where another queue touches a buffer, the two are put in
  /// order: its first copy waits for whoever had the memory before, and its return waits for the last copy.
  struct Held {
    DeviceBuffer memory;
    std::uint64_t allocated = 0;                      ///< time_ when it was allocated
    std::array<std::uint64_t, kQueues.size()> put{};  ///< time_ of the last copy that each queue was given
  };

  static std::size_t index(Queue queue) { return static_cast<std::size_t>(queue); }
  cudaStream_t stream_of(Queue queue) const {
    return queue == Queue::load    ? context_.load_stream()
           : queue == Queue::store ? context_.store_stream()
                                   : context_.stream();
  }
  Held* find(const void* memory);
  void before_copy(Queue queue, const void* memory);
  void give_back(std::byte* memory) noexcept;
  void order_locked(Queue earlier, Queue later);
  void destroy_events() noexcept;

  int threads_;
  cuda::CudaContext context_;
  std::string description_;  ///< made while CUDA answers: messages about a lost device need it
  cuda::CudaKernels kernels_;
  std::map<int, DeviceBuffer> scratch_;
  std::mutex mutex_;                                   ///< of what follows
  std::map<const std::byte*, Held> buffers_;           ///< by their first byte
  std::uint64_t time_ = 0;                             ///< counts allocations, copies and orderings
  std::array<cudaEvent_t, kQueues.size()> reached_{};  ///< of order_after, by the earlier queue
  /// waited_[later][earlier]: time_ when `later` was last told to wait for `earlier`
  std::array<std::array<std::uint64_t, kQueues.size()>, kQueues.size()> waited_{};
};

DeviceBuffer CudaBackend::allocate(std::size_t bytes) {
  if (bytes == 0) return {};
  DeviceBuffer memory = context_.allocate(bytes);
  std::byte* data = memory.data();
  const std::lock_guard lock(mutex_);
  buffers_[data] = {std::move(memory), ++time_, {}};
  return {data, bytes, this, [](void* self, std::byte* given_back, std::size_t) {
            static_cast<CudaBackend*>(self)->give_back(given_back);
          }};
}

void CudaBackend::give_back(std::byte* memory) noexcept {
  const std::lock_guard lock(mutex_);
  const auto held = buffers_.find(memory);
  if (held == buffers_.end()) return;
  for (const Queue queue : {Queue::load, Queue::store}) {
    if (held->second.put[index(queue)] <= waited_[index(Queue::compute)][index(queue)]) continue;
    try {
      order_locked(queue, Queue::compute);
    } catch (const DeviceError&) {
      // Told at the next synchronize(); the device does no more work in the mean time.
    }
  }
  buffers_.erase(held);
}

void* CudaBackend::scratch(int slot, std::size_t bytes) {
  DeviceBuffer& buffer = scratch_[slot];
  if (buffer.size() < bytes) {
    buffer = {};
    buffer = allocate(bytes);
  }
  return buffer.data();
}

CudaBackend::Held* CudaBackend::find(const void* memory) {
  const auto* byte = static_cast<const std::byte*>(memory);
  auto behind = buffers_.upper_bound(byte);
  if (behind == buffers_.begin()) return nullptr;
  Held& held = std::prev(behind)->second;
  return byte < held.memory.data() + held.memory.size() ? &held : nullptr;
}

void CudaBackend::before_copy(Queue queue, const void* memory) {
  Held* held = find(memory);
  if (held == nullptr || queue == Queue::compute) return;
  if (waited_[index(queue)][index(Queue::compute)] < held->allocated) order_locked(Queue::compute, queue);
  held->put[index(queue)] = ++time_;
}

void CudaBackend::copy_in_queue(Queue queue, void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  const std::lock_guard lock(mutex_);
  context_.enter_thread();
  before_copy(queue, to);
  before_copy(queue, from);
  GPTQ_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_of(queue)));
}

void CudaBackend::order_after(Queue earlier, Queue later) {
  const std::lock_guard lock(mutex_);
  context_.enter_thread();
  if (earlier != later) order_locked(earlier, later);
}

void CudaBackend::order_locked(Queue earlier, Queue later) {
  cudaEvent_t event = reached_[index(earlier)];
  GPTQ_CUDA(cudaEventRecord(event, stream_of(earlier)));
  GPTQ_CUDA(cudaStreamWaitEvent(stream_of(later), event, 0));
  waited_[index(later)][index(earlier)] = ++time_;
}

void CudaBackend::synchronize() {
  for (const Queue queue : kQueues) GPTQ_CUDA(cudaStreamSynchronize(stream_of(queue)));
  GPTQ_CUDA(cudaStreamSynchronize(context_.weights_stream()));
}

void CudaBackend::destroy_events() noexcept {
  for (cudaEvent_t event : reached_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
}

}  // namespace
}  // namespace gptq

extern "C" {

const char* gptq_hpc_plugin_identity() {
  return gptq::plugin_identity();
}

gptq::Backend* gptq_hpc_cuda_backend(const gptq::BackendOptions& options) {
  return new gptq::CudaBackend(options);
}
}
