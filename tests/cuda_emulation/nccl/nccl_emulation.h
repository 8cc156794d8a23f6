#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <functional>

/// The few functions of NCCL and of CUDA's runtime that the NCCL plugin calls, on the CPU: a queue is a
/// thread that does one thing after the other, ranks are processes that meet in shared memory, and everything
/// that NCCL may do late it does late. So what the plugin must do in the right order, in bounded time and in
/// face of failures can be tried with the real processes.
namespace nccl_emulation {

/// What goes wrong in this process. Operations are counted from 1, the plugin's own first sum included.
struct Faults {
  std::atomic<bool> refuse_start = false;  ///< ncclCommInitRankConfig fails at once
  std::atomic<bool> never_start = false;   ///< this rank never gets ready
  std::atomic<int> hang_at = 0;            ///< from this operation on, this rank takes no part
  std::atomic<int> error_at = 0;           ///< the same, and NCCL notices
  std::atomic<int> refuse_at = 0;          ///< the call itself fails
  std::atomic<int> never_enter_at = 0;     ///< this operation never gets into the queue
  std::atomic<bool> wrong_sums = false;
  std::atomic<bool> kernel_fault = false;  ///< the device is lost
  std::atomic<bool> abort_hangs = false;   ///< for as long as this is true
};
Faults& faults();
void forget_faults();

/// What was called in this process so far.
struct Calls {
  std::atomic<int> aborted = 0, finalized = 0, destroyed = 0;
  std::atomic<int> events = 0;  ///< that exist
  std::atomic<int> queues = 0;  ///< that exist and were made by the plugin
};
Calls& calls();

cudaStream_t make_queue();
void destroy_queue(cudaStream_t queue);  ///< when it is empty
void submit(cudaStream_t queue, std::function<void()> kernel);

}  // namespace nccl_emulation
