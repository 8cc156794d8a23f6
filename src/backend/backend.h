#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "base/device_buffer.h"
#include "base/tensor.h"
#include "kernels/kernels.h"

namespace gptq {

/// Queues of a backend. Work put into one runs in order; `order_after` orders work of different ones. On the
/// CPU everything is done when the call returns.
enum class Queue { compute, load, store };

/// A place that computes: its memory, its kernels, what it is good at. One per rank.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;  ///< "cpu", "cuda"
  /// Backends of one kind give the same bytes: "cpu", "cuda 9.0, 132 multiprocessors".
  virtual std::string kind() const { return name(); }
  virtual std::string describe() const = 0;  ///< "cpu: 2 threads, avx512_core_bf16", for logs and reports
  virtual bool fast_bf16() const = 0;        ///< bf16 products are faster than f32 ones here
  virtual int threads() const = 0;
  virtual Kernels& kernels() = 0;

  // ---- memory
  // ------------------------------------------------------------------------------------------------

  /// The host may read and write this backend's memory; then the copies below are plain ones.
  virtual bool shares_host_memory() const = 0;
  /// Which device this rank computes on: the same text on two ranks means the same device. Empty for the CPU.
  virtual std::string device_id() const = 0;
  virtual int device_number() const { return -1; }     ///< the vendor's number of it in this process
  virtual std::int64_t memory_bytes() const = 0;       ///< of the device (or host), in all
  virtual std::int64_t free_memory_bytes() const = 0;  ///< at this moment
  virtual std::int64_t peak_memory_bytes() const = 0;  ///< most that this process held of it

  /// Throws DeviceError with the figures if there is not enough.
  virtual DeviceBuffer allocate(std::size_t bytes) = 0;
  /// Host memory that this backend copies to and from at full speed (pinned).
  virtual DeviceBuffer allocate_host(std::size_t bytes) = 0;
  /// Working memory of this backend, one buffer a slot (a small number), grown to the largest request and
  /// kept. Its contents are undefined; it is valid until the next request for the same slot.
  virtual void* scratch(int slot, std::size_t bytes) = 0;

  /// Host to device, in the order of the kernels. The host memory may be reused at once.
  virtual void upload(void* to, const void* from_host, std::size_t bytes) = 0;
  /// Device to host; waits for the kernels before it.
  virtual void download(void* to_host, const void* from, std::size_t bytes) = 0;
  /// Within the device, in the order of the kernels.
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  virtual void set_zero(void* memory, std::size_t bytes) = 0;

  /// Puts a copy between host memory (best from allocate_host) and the device, in either direction, into a
  /// queue. The host memory must stay as it is until the queue is done with it.
  virtual void copy_in_queue(Queue queue, void* to, const void* from, std::size_t bytes) = 0;
  /// What is put into `later` from now on waits for everything in `earlier` so far.
  virtual void order_after(Queue earlier, Queue later) = 0;
  /// Waits until all queues are empty. Throws DeviceError for whatever failed in them.
  virtual void synchronize() = 0;
  /// The compute queue as the vendor's library knows it (a cudaStream_t); null on the CPU.
  virtual void* native_queue() = 0;

  // ---- profiling
  // ---------------------------------------------------------------------------------------------

  /// Names what follows for the vendor's profiler, until leave_range(). Ranges nest.
  virtual void enter_range(const char* name) = 0;
  virtual void leave_range() = 0;
};

struct BackendOptions {
  std::string name = "auto";  ///< auto | cpu | cuda
  int threads = 0;  ///< 0: the cores this rank may use, divided among the node's ranks by the caller
  int device = 0;   ///< of the devices this process sees, counted round: the rank's number on its node
};

/// Names this program was built with ("cpu", "cpu, cuda"); a name from here may still fail where the device
/// is absent.
std::string built_backends();

/// auto: cuda where it was built, a GPU is present and it starts; else cpu. Throws UsageError for an unknown
/// name and DeviceError where the device is missing or cannot be used.
std::unique_ptr<Backend> make_backend(const BackendOptions& options);

/// A copy in the backend's memory.
DeviceBuffer to_device(Backend& backend, const void* host, std::size_t bytes);

}  // namespace gptq
