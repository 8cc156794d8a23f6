// NCCL among the processes of one machine. Everything that may come later than the call does.

#include "tests/cuda_emulation/nccl/nccl_emulation.h"

#include <fcntl.h>
#include <nccl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>

namespace nccl_emulation {
namespace {

constexpr int kRanks = 8;
constexpr std::size_t kSlot = 512;  // so small that most messages go in several steps
constexpr std::chrono::microseconds kNap{50};
constexpr std::chrono::milliseconds kDelay{2};  // from a call to what it does

/// Where ranks meet.
struct Shared {
  std::atomic<int> joined;
  std::atomic<std::int64_t> arrived[kRanks];
  std::atomic<std::int64_t> left[kRanks];
  std::byte slots[kRanks][kSlot];
};

/// One rank's end. Operations in a queue share it.
struct End {
  int rank = 0;
  int ranks = 0;
  Shared* shared = nullptr;
  std::atomic<ncclResult_t> state = ncclSuccess;
  std::atomic<bool> aborted = false;
  std::atomic<int> in_queue = 0;
  std::int64_t step = 0;
  int operations = 0;
  std::thread late;  ///< what a call left to be done

  ~End() {
    if (late.joinable()) late.join();
    munmap(shared, sizeof(Shared));
  }

  /// False if aborted meanwhile.
  template <typename Ready>
  bool wait(Ready&& ready) {
    while (!ready()) {
      if (aborted) return false;
      std::this_thread::sleep_for(kNap);
    }
    return true;
  }

  /// All ranks put `mine` into their slots; then `take` reads them.
  template <typename Take>
  bool exchange(const std::byte* mine, std::size_t bytes, Take&& take) {
    const auto all = [&](const std::atomic<std::int64_t>* steps) {
      return wait(
          [&] { return std::all_of(steps, steps + ranks, [&](const auto& at) { return at >= step; }); });
    };
    ++step;
    std::memcpy(shared->slots[rank], mine, bytes);
    shared->arrived[rank] = step;
    if (!all(shared->arrived)) return false;
    take();
    shared->left[rank] = step;
    return all(shared->left);
  }
};

void sum(End& end, const std::int64_t* from, std::int64_t* to, std::size_t count) {
  constexpr std::size_t kStep = kSlot / sizeof(std::int64_t);
  for (std::size_t first = 0; first < count; first += kStep) {
    const std::size_t part = std::min(kStep, count - first);
    const bool done =
        end.exchange(reinterpret_cast<const std::byte*>(from + first), part * sizeof(*from), [&] {
          for (std::size_t i = 0; i < part; ++i) {
            std::int64_t total = faults().wrong_sums ? 1 : 0;
            for (int rank = 0; rank < end.ranks; ++rank) {
              std::int64_t value = 0;
              std::memcpy(&value, end.shared->slots[rank] + i * sizeof(value), sizeof(value));
              total += value;
            }
            to[first + i] = total;
          }
        });
    if (!done) return;
  }
}

void broadcast(End& end, const std::byte* from, std::byte* to, std::size_t bytes, int root) {
  for (std::size_t first = 0; first < bytes; first += kSlot) {
    const std::size_t part = std::min(kSlot, bytes - first);
    const bool done = end.exchange(from + first, end.rank == root ? part : 0,
                                   [&] { std::memcpy(to + first, end.shared->slots[root], part); });
    if (!done) return;
  }
}

Shared* open_shared(const ncclUniqueId& id) {
  const int file = shm_open(id.internal, O_RDWR | O_CREAT, 0600);
  if (file < 0) return nullptr;
  const bool sized = ftruncate(file, sizeof(Shared)) == 0;  // new memory is zero
  void* memory =
      sized ? mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
  close(file);
  return memory == MAP_FAILED ? nullptr : static_cast<Shared*>(memory);
}

void join_ranks(End& end, const ncclUniqueId& id) {
  if (faults().never_start) {
    end.wait([] { return false; });
  } else {
    ++end.shared->joined;
    if (end.wait([&] { return end.shared->joined == end.ranks; })) end.state = ncclSuccess;
  }
  if (end.rank == 0 || end.aborted) shm_unlink(id.internal);
}

}  // namespace
}  // namespace nccl_emulation

using namespace nccl_emulation;

struct ncclComm {
  std::shared_ptr<End> end = std::make_shared<End>();
};

namespace {

bool strikes(int at, int operation) {
  return at > 0 && operation >= at;
}

template <typename Work>
ncclResult_t put(ncclComm_t comm, cudaStream_t queue, Work work) {
  const std::shared_ptr<End> end = comm->end;
  if (end->state != ncclSuccess) return ncclInvalidUsage;  // the one before is not in the queue yet
  const int operation = ++end->operations;
  if (strikes(faults().refuse_at, operation)) return ncclInvalidArgument;
  if (end->late.joinable()) end->late.join();
  end->state = ncclInProgress;
  if (strikes(faults().never_enter_at, operation)) return ncclInProgress;
  ++end->in_queue;
  end->late = std::thread([=] {
    std::this_thread::sleep_for(kDelay);
    const bool error = strikes(faults().error_at, operation);
    submit(queue, [=] {
      if (error) std::this_thread::sleep_for(50 * kDelay);
      if (error) end->state = ncclRemoteError;
      if (error || strikes(faults().hang_at, operation)) end->wait([] { return false; });
      if (!end->aborted) work(*end);
      --end->in_queue;
    });
    ncclResult_t entering = ncclInProgress;  // the queue may have met an error by now
    end->state.compare_exchange_strong(entering, ncclSuccess);
  });
  return ncclInProgress;
}

}  // namespace

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclSystemError:
      return "unhandled system error";
    default:
      return "error";
  }
}

const char* ncclGetLastError(ncclComm_t) {
  return "emulated fault";
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static int number = 0;
  std::snprintf(id->internal, sizeof(id->internal), "/nccl_emulation_%d_%d", getpid(), ++number);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (config->blocking != 0 || ranks > kRanks) return ncclInvalidArgument;
  if (faults().refuse_start) return ncclSystemError;
  *comm = new ncclComm;
  End& end = *(*comm)->end;
  end.rank = rank;
  end.ranks = ranks;
  end.shared = open_shared(id);
  if (end.shared == nullptr) return ncclSystemError;
  end.state = ncclInProgress;
  end.late = std::thread([&end, id] { join_ranks(end, id); });
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  *state = comm->end->state;
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t queue) {
  if (type != ncclInt64 || operation != ncclSum) return ncclInvalidArgument;
  return put(comm, queue, [=](End& end) {
    sum(end, static_cast<const std::int64_t*>(from), static_cast<std::int64_t*>(to), count);
  });
}

ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t queue) {
  if (type != ncclUint8) return ncclInvalidArgument;
  return put(comm, queue, [=](End& end) {
    broadcast(end, static_cast<const std::byte*>(from), static_cast<std::byte*>(to), count, root);
  });
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  while (faults().abort_hangs) std::this_thread::sleep_for(kNap);
  End& end = *comm->end;
  end.aborted = true;
  if (end.late.joinable()) end.late.join();
  while (end.in_queue > 0) std::this_thread::sleep_for(kNap);
  ++calls().aborted;
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  End& end = *comm->end;
  if (end.late.joinable()) end.late.join();
  end.state = ncclInProgress;
  end.late = std::thread([&end] {
    std::this_thread::sleep_for(kDelay);
    end.state = ncclSuccess;
  });
  ++calls().finalized;
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  ++calls().destroyed;
  delete comm;
  return ncclSuccess;
}
