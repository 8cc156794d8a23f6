#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/device_buffer.h"
#include "comm/communicator.h"

namespace gptq {

/// Collectives on the memory that kernels compute in, ordered with the kernels' queue. Every call is
/// collective and made by one thread. They may return before the work is done; kernels put into the queue
/// later see its result.
///
/// Where the work goes on after the call (NCCL), a rank that hangs or a broken network shows later: the
/// communicator is then aborted, so that nothing in the queue hangs, and what the queue's memory holds is
/// worthless. The next call, check() or wait() throws. So: call wait() at safe points and before the host
/// reads results that are kept, check() after any other blocking call on the queue.
class DeviceCollectives {
 public:
  virtual ~DeviceCollectives() = default;

  virtual std::string describe() const = 0;  ///< "nccl 2.28.9", "mpi through host memory"
  virtual void all_reduce_sum(std::int64_t* values, std::size_t count) = 0;  ///< exact, the same everywhere
  /// The same beside the kernels: those put into the queue from now on may run meanwhile, and must leave
  /// `values` alone until join(). As many sums as wanted may be started, on all ranks in the same order.
  virtual void start_sum(std::int64_t* values, std::size_t count) { all_reduce_sum(values, count); }
  /// Kernels put into the queue later see the results of all sums that were started.
  virtual void join() {}
  /// Does start_sum() return before the work is done, so that something is gained by it? On all ranks alike.
  virtual bool overlaps() const { return false; }
  virtual void broadcast(void* data, std::size_t bytes, int root) = 0;
  /// Throws what an earlier call met: CommError, or DeviceError where the device itself failed.
  virtual void check() {}
  /// Returns when the earlier calls are done; throws like check(). Gives up after the communicator's timeout,
  /// naming the ranks that hang. Time in which this rank's own kernels run does not count. Collective.
  virtual void wait() {}
};

/// How to reach memory that the host cannot touch.
struct DeviceCopies {
  std::function<void(void* host, const void* device, std::size_t bytes)> download;  ///< waits for the kernels
  /// In the order of the kernels; the host memory may be reused when it returns.
  std::function<void(void* device, const void* host, std::size_t bytes)> upload;
  /// Host memory that is fast to copy (pinned); ordinary memory if empty.
  std::function<DeviceBuffer(std::size_t bytes)> allocate_host;
};

/// Host memory that staged collectives hold: longer messages go in pieces of so many bytes.
inline constexpr std::size_t kStagedPiece = std::size_t{32} << 20;

/// For memory that the host can touch: MPI on it.
std::unique_ptr<DeviceCollectives> make_host_collectives(Communicator& comm);
/// Through `piece` bytes (a multiple of 8) of host memory, piece by piece.
std::unique_ptr<DeviceCollectives> make_staged_collectives(Communicator& comm, DeviceCopies copies,
                                                           std::size_t piece = kStagedPiece);

/// What NCCL needs to know of this rank.
struct NcclPlace {
  int device = 0;         ///< CUDA's number of the device in this process
  void* queue = nullptr;  ///< the cudaStream_t of the kernels
  double timeout = 1800;  ///< seconds, as set for `comm`; then NCCL is aborted and CommError thrown
};

/// NCCL refuses two ranks on one device. `device_id`: the same text on two ranks means the same device, empty
/// that there is none (Backend::device_id). Collective; the same answer on every rank.
bool every_rank_has_its_own_device(Communicator& comm, const std::string& device_id);

/// Loads the NCCL plugin (gptq_hpc_nccl.so, or what GPTQ_HPC_NCCL_PLUGIN names), starts NCCL and proves it
/// with a small sum. If anything of that fails on any rank, CollectiveError is thrown on every rank of `comm`
/// alike, in bounded time: catch it and use other collectives. In a team smaller than the world nobody would
/// speak of it, for it is no failure of one rank (run_on). `comm` must outlive the result. Collective.
std::unique_ptr<DeviceCollectives> make_nccl_collectives(Communicator& comm, const NcclPlace& place);

}  // namespace gptq
