#include "comm/nccl_link.h"

#include <chrono>
#include <utility>

#include "comm/nccl_check.h"

namespace gptq::nccl {
namespace {

using Seconds = std::chrono::duration<double>;

constexpr Seconds kLookEvery{0.05};
constexpr Seconds kLookAtEnd{0.001};
/// An abort takes milliseconds, unless the driver is stuck.
constexpr Seconds kAbortPatience{10};
/// Ending in peace needs the other ranks.
constexpr double kEndPatience = 10;

}  // namespace

NcclLink::NcclLink(int device, cudaStream_t queue, double timeout)
    : device_(device), queue_(queue), timeout_(timeout) {}

NcclLink::~NcclLink() {
  for (Operation& operation : operations_) {
    if (operation.before != nullptr) cudaEventDestroy(operation.before);
    if (operation.after != nullptr) cudaEventDestroy(operation.after);
  }
  for (cudaEvent_t event : spare_events_) cudaEventDestroy(event);
  if (line_ != nullptr) cudaStreamDestroy(line_);
}

std::string NcclLink::Operation::text() const {
  return fmt::format("{} #{} of {} bytes", name, number, bytes);
}

// ---- the calling thread

void NcclLink::look_after() {
  thread_done_ = false;
  // It shares this object: a thread whose abort hangs is left behind with it.
  thread_ = std::thread(watch, shared_from_this());
}

void NcclLink::start(int ranks, int rank, const ncclUniqueId& id) {
  const std::lock_guard lock(mutex_);
  since_call_ = Stopwatch();
  if (!note(cudaSetDevice(device_), "starting NCCL") || !make_line("starting NCCL")) return;
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  const ncclResult_t result = ncclCommInitRankConfig(&comm_, ranks, id, rank, &config);
  if (failed(result)) note_failure({Failure::Kind::communication, problem_text(result, "starting", comm_)});
}

std::optional<double> NcclLink::starting() {
  const std::lock_guard lock(mutex_);
  if (failure_ || state("starting", nullptr) != ncclInProgress) return std::nullopt;
  return since_call_.seconds();
}

void NcclLink::put(const char* name, std::size_t bytes, bool joined, const Call& call) {
  const std::lock_guard lock(mutex_);
  if (failure_) return;
  since_call_ = Stopwatch();
  Operation operation{
      .name = name, .number = ++operations_so_far_, .bytes = bytes, .joined = joined, .started = {}};
  const std::string doing = "entering " + operation.text();
  const bool ordered = record(operation.before, queue_, doing) && order(line_, operation.before, doing);
  operations_.push_back(operation);
  if (!ordered) return;
  entering_ = true;
  const ncclResult_t result = call(comm_, line_);
  if (failed(result)) note_failure({Failure::Kind::communication, problem_text(result, doing, comm_)});
}

std::optional<double> NcclLink::entering() {
  const std::lock_guard lock(mutex_);
  if (failure_ || !entering_) return std::nullopt;
  Operation& operation = operations_.back();
  if (state("entering", &operation) == ncclInProgress) return since_call_.seconds();
  if (!failure_) {
    entering_ = false;
    const std::string doing = "entering " + operation.text();
    if (record(operation.after, line_, doing) && operation.joined) order(queue_, operation.after, doing);
    changed_.notify_all();
  }
  return std::nullopt;
}

void NcclLink::join() {
  const std::lock_guard lock(mutex_);
  // Those before it are done when the last is; and what is not in the list any more is done.
  if (failure_ || operations_.empty()) return;
  order(queue_, operations_.back().after, "joining " + operations_.back().text());
}

std::optional<double> NcclLink::working() {
  const std::lock_guard lock(mutex_);
  look(/*judge_time=*/false);
  if (failure_ || operations_.empty()) return std::nullopt;
  const auto& started = operations_.front().started;
  return started ? started->seconds() : 0;
}

NcclLink::CallerLooks::CallerLooks(NcclLink& link) : link_(link) {
  const std::lock_guard lock(link_.mutex_);
  ++link_.caller_looks_;
}

NcclLink::CallerLooks::~CallerLooks() {
  const std::lock_guard lock(link_.mutex_);
  --link_.caller_looks_;
  link_.changed_.notify_all();
}

void NcclLink::fail(Failure::Kind kind, const std::string& text) {
  const std::lock_guard lock(mutex_);
  const std::string at = operations_.empty() ? "" : " at " + operations_.front().text();
  note_failure({kind, fmt::format("{}. NCCL was aborted{}", text, at)});
}

std::optional<Failure> NcclLink::failure() {
  std::unique_lock lock(mutex_);
  if (failure_) changed_.wait_for(lock, kAbortPatience, [&] { return doomed_ == nullptr && !aborting_; });
  return failure_;
}

void NcclLink::end(bool in_peace) {
  std::unique_lock lock(mutex_);
  ++caller_looks_;
  if (in_peace && comm_ != nullptr && finalized(lock)) {
    ncclCommDestroy(std::exchange(comm_, nullptr));
  } else if (comm_ != nullptr) {
    note_failure({Failure::Kind::communication, "NCCL was ended early"});
  }
  ending_ = true;
  changed_.notify_all();
  const bool done = changed_.wait_for(lock, kAbortPatience, [&] { return thread_done_; });
  lock.unlock();
  if (!thread_.joinable()) return;
  if (done) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

bool NcclLink::finalized(std::unique_lock<std::mutex>& lock) {
  const Stopwatch ending;
  bool called = false;
  while (!failure_ && ending.seconds() < kEndPatience) {
    look(/*judge_time=*/false);
    if (!called && operations_.empty() && !failure_) {
      const ncclResult_t result = ncclCommFinalize(comm_);
      if (failed(result)) return false;
      called = true;
    }
    if (called && state("ending", nullptr) == ncclSuccess) return true;
    changed_.wait_for(lock, kLookAtEnd);
  }
  return false;
}

// ---- the thread that looks after it

void NcclLink::watch(const std::shared_ptr<NcclLink>& link) {
  cudaSetDevice(link->device_);  // a failure shows at the next call
  std::unique_lock lock(link->mutex_);
  link->watch_until_end(lock);
  link->thread_done_ = true;
  link->changed_.notify_all();
}

void NcclLink::watch_until_end(std::unique_lock<std::mutex>& lock) {
  while (true) {
    if (doomed_ != nullptr) {
      abort_doomed(lock);
    } else if (ending_) {
      return;
    } else if (caller_looks_ > 0 || entering_ || operations_.empty()) {
      changed_.wait(lock);
    } else {
      look(/*judge_time=*/true);
      if (doomed_ == nullptr) changed_.wait_for(lock, kLookEvery);
    }
  }
}

void NcclLink::abort_doomed(std::unique_lock<std::mutex>& lock) {
  ncclComm_t doomed = std::exchange(doomed_, nullptr);
  aborting_ = true;
  lock.unlock();
  ncclCommAbort(doomed);  // whatever it says, the first failure is what counts
  lock.lock();
  aborting_ = false;
  changed_.notify_all();
}

// ---- both, with mutex_ held

ncclResult_t NcclLink::state(const char* doing, const Operation* operation) {
  if (comm_ == nullptr) return ncclInvalidUsage;
  ncclResult_t result = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(comm_, &result);
  if (failed(asked)) result = asked;
  if (failed(result)) {
    const std::string what = operation == nullptr ? doing : fmt::format("{} {}", doing, operation->text());
    note_failure({Failure::Kind::communication, problem_text(result, what, comm_)});
  }
  return result;
}

void NcclLink::look(bool judge_time) {
  if (failure_ || operations_.empty()) return;
  state("at work on", &operations_.front());
  while (!failure_ && !operations_.empty() && front_is_done()) retire_front();
  if (failure_ || operations_.empty() || !judge_time) return;
  const Operation& front = operations_.front();
  if (!front.started || front.started->seconds() < timeout_) return;
  const double seconds = front.started->seconds();
  note_failure({Failure::Kind::late,
                fmt::format("NCCL's {} did not finish in {:.1f} s: a rank did not come to it, or the network "
                            "between them hangs. NCCL was aborted",
                            front.text(), seconds),
                seconds});
}

bool NcclLink::front_is_done() {
  Operation& front = operations_.front();
  if (!front.started) {
    if (!reached(front.before, front)) return false;
    front.started = Stopwatch();
  }
  return front.after != nullptr && reached(front.after, front);
}

bool NcclLink::reached(cudaEvent_t event, const Operation& operation) {
  const cudaError_t status = cudaEventQuery(event);
  if (status == cudaSuccess || status == cudaErrorNotReady) return status == cudaSuccess;
  return note(status, "waiting for NCCL's " + operation.text() +
                          ", though the culprit may be a kernel started earlier");
}

bool NcclLink::note(cudaError_t status, const std::string& doing) {
  if (status == cudaSuccess) return true;
  note_failure({Failure::Kind::device, problem_text(status, doing)});
  return false;
}

void NcclLink::note_failure(Failure failure) {
  if (failure_) return;
  failure_ = std::move(failure);
  doomed_ = std::exchange(comm_, nullptr);
  changed_.notify_all();
}

bool NcclLink::make_line(const std::string& doing) {
  int lowest = 0, highest = 0;
  return note(cudaDeviceGetStreamPriorityRange(&lowest, &highest), doing) &&
         note(cudaStreamCreateWithPriority(&line_, cudaStreamNonBlocking, highest), doing);
}

bool NcclLink::order(cudaStream_t where, cudaEvent_t event, const std::string& doing) {
  return note(cudaStreamWaitEvent(where, event, 0), doing);
}

bool NcclLink::record(cudaEvent_t& event, cudaStream_t where, const std::string& doing) {
  if (!spare_events_.empty()) {
    event = spare_events_.back();
    spare_events_.pop_back();
  } else if (!note(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), doing)) {
    return false;
  }
  return note(cudaEventRecord(event, where), doing);
}

void NcclLink::retire_front() {
  spare_events_.push_back(operations_.front().before);
  spare_events_.push_back(operations_.front().after);
  operations_.pop_front();
}

}  // namespace gptq::nccl
