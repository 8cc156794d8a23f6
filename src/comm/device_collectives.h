#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace gptq {

/// Collectives on the memory that kernels compute in, ordered with the kernels' queue. Every call is
/// collective. They may return before the work is done; kernels put into the queue later see its result.
class DeviceCollectives {
 public:
  virtual ~DeviceCollectives() = default;

  virtual std::string describe() const = 0;  ///< "nccl 2.27.7", "mpi through host memory"
  virtual void all_reduce_sum(std::int64_t* values, std::size_t count) = 0;  ///< exact, the same everywhere
  virtual void broadcast(void* data, std::size_t bytes, int root) = 0;
};

/// How to reach memory that the host cannot touch.
struct DeviceCopies {
  std::function<void(void* host, const void* device, std::size_t bytes)> download;  ///< waits for the kernels
  std::function<void(void* device, const void* host, std::size_t bytes)> upload;
};

/// For memory that the host can touch: MPI on it.
std::unique_ptr<DeviceCollectives> make_host_collectives(Communicator& comm);
/// Through host memory, piece by piece.
std::unique_ptr<DeviceCollectives> make_staged_collectives(Communicator& comm, DeviceCopies copies);

/// What NCCL needs to know of this rank.
struct NcclPlace {
  int device = 0;         ///< CUDA's number of the device in this process
  void* queue = nullptr;  ///< the cudaStream_t of the kernels
  double timeout = 1800;  ///< seconds; then the communicator is aborted and CommError thrown
};

/// Loads the NCCL plugin beside the program. Throws CommError, on every rank alike, if it or NCCL itself is
/// missing or does not start. Collective.
std::unique_ptr<DeviceCollectives> make_nccl_collectives(Communicator& comm, const NcclPlace& place);

}  // namespace gptq
