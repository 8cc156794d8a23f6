// Queues, events and memory of the device.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "tests/cuda_emulation/nccl/nccl_emulation.h"

struct CUstream_st {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> work;
  bool busy = false;
  bool ending = false;
  std::thread thread{[this] { run(); }};

  void run() {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [&] { return ending || !work.empty(); });
      if (work.empty()) return;
      const auto next = std::move(work.front());
      work.pop_front();
      busy = true;
      lock.unlock();
      next();
      lock.lock();
      busy = false;
      changed.notify_all();
    }
  }
};

/// Who waits for an event waits for its last record before that.
struct CUevent_st {
  std::shared_ptr<std::atomic<bool>> reached = std::make_shared<std::atomic<bool>>(true);
};

namespace nccl_emulation {

Faults& faults() {
  static Faults all;
  return all;
}

void forget_faults() {
  Faults& all = faults();
  all.refuse_start = all.never_start = all.wrong_sums = all.kernel_fault = all.abort_hangs = false;
  all.hang_at = all.error_at = all.refuse_at = all.never_enter_at = 0;
}

Calls& calls() {
  static Calls all;
  return all;
}

cudaStream_t make_queue() {
  return new CUstream_st;
}

void destroy_queue(cudaStream_t queue) {
  {
    const std::lock_guard lock(queue->mutex);
    queue->ending = true;
    queue->changed.notify_all();
  }
  queue->thread.join();
  delete queue;
}

void submit(cudaStream_t queue, std::function<void()> kernel) {
  const std::lock_guard lock(queue->mutex);
  queue->work.push_back(std::move(kernel));
  queue->changed.notify_all();
}

}  // namespace nccl_emulation

using namespace nccl_emulation;

const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaSuccess ? "cudaSuccess" : "cudaErrorIllegalAddress";
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "an illegal memory access was encountered";
}

cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  *data = std::malloc(bytes);
  return cudaSuccess;
}

cudaError_t cudaFree(void* data) {
  std::free(data);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t queue) {
  submit(queue, [=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t queue) {
  std::unique_lock lock(queue->mutex);
  queue->changed.wait(lock, [&] { return queue->work.empty() && !queue->busy; });
  return faults().kernel_fault ? cudaErrorIllegalAddress : cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* lowest, int* highest) {
  *lowest = 0;
  *highest = -5;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* queue, unsigned, int) {
  *queue = make_queue();
  ++calls().queues;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t queue) {
  destroy_queue(queue);
  --calls().queues;
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t queue, cudaEvent_t event, unsigned) {
  submit(queue, [reached = event->reached] {
    while (!*reached) std::this_thread::sleep_for(std::chrono::microseconds(50));
  });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  ++calls().events;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  --calls().events;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t queue) {
  event->reached = std::make_shared<std::atomic<bool>>(false);
  submit(queue, [reached = event->reached] { *reached = true; });
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (faults().kernel_fault) return cudaErrorIllegalAddress;
  return *event->reached ? cudaSuccess : cudaErrorNotReady;
}
