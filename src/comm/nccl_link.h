#pragma once

#include <nccl.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"

/// Private to the NCCL plugin.
namespace gptq::nccl {

/// What went wrong first; the link is of no use after that.
struct Failure {
  enum class Kind { communication, device, late };
  Kind kind = Kind::communication;
  std::string text;
  double seconds = 0;  ///< late: so long did this rank wait
};

/// One NCCL communicator (non-blocking) and what it has under way.
///
/// Its operations run one after the other in a queue of their own, each after the kernels that were in the
/// kernels' queue when it was put. The kernels after it may wait for it or not. NCCL's blocks take
/// multiprocessors from kernels that run beside them: that queue's higher priority lets them start as soon as
/// any block ends, because other ranks wait for them.
///
/// NCCL works on after a call has returned. A thread of this object looks after it: when NCCL reports an
/// error, or an operation takes longer than the time-out although this rank's own kernels before it are done,
/// the communicator is aborted, which ends NCCL's kernels, so that whoever waits for a queue goes on. It
/// also does every abort, so that one that hangs hangs nobody else.
///
/// The functions returning optional seconds are for Communicator::wait_outside: how long this rank has waited
/// for others, or nothing when it is over (see failure()). All functions but the thread's are for one caller.
class NcclLink : public std::enable_shared_from_this<NcclLink> {
 public:
  using Call = std::function<ncclResult_t(ncclComm_t comm, cudaStream_t queue)>;

  /// queue: of the kernels; must outlive end(). timeout: seconds for an operation. Call look_after() next.
  NcclLink(int device, cudaStream_t queue, double timeout);
  ~NcclLink();
  NcclLink(const NcclLink&) = delete;
  NcclLink& operator=(const NcclLink&) = delete;

  void look_after();  ///< starts the thread

  void start(int ranks, int rank, const ncclUniqueId& id);
  std::optional<double> starting();

  /// Puts an operation behind the kernels; `name` must live for ever. joined: as by join(). Nothing may be
  /// put after it before entering() is over: NCCL may only then have put its kernels there.
  void put(const char* name, std::size_t bytes, bool joined, const Call& call);
  std::optional<double> entering();
  void join();  ///< kernels put into their queue from now on wait for all operations so far
  std::optional<double> working();  ///< until all operations are done

  /// The caller looks itself, and judges what is too late, for as long as this object lives.
  class CallerLooks {
   public:
    explicit CallerLooks(NcclLink& link);
    ~CallerLooks();
    CallerLooks(const CallerLooks&) = delete;
    CallerLooks& operator=(const CallerLooks&) = delete;

   private:
    NcclLink& link_;
  };

  /// Gives up for a reason that the caller found. The first failure stays.
  void fail(Failure::Kind kind, const std::string& text);
  /// What failed. By then the abort is done, or has hung for kAbortPatience.
  std::optional<Failure> failure();

  /// Ends the communicator: in peace if `in_peace` and nothing failed and all ranks do so, else by abort.
  void end(bool in_peace);

 private:
  struct Operation {
    const char* name = "";
    std::int64_t number = 0;
    std::size_t bytes = 0;
    bool joined = true;
    cudaEvent_t before = nullptr, after = nullptr;  ///< this rank's kernels before it are done; so is it
    std::optional<Stopwatch> started;
    std::string text() const;
  };

  static void watch(const std::shared_ptr<NcclLink>& link);
  void watch_until_end(std::unique_lock<std::mutex>& lock);
  void abort_doomed(std::unique_lock<std::mutex>& lock);
  bool finalized(std::unique_lock<std::mutex>& lock);
  // The following are called with mutex_ held.
  /// Of the communicator; a failure is noted with the operation it concerns, if any.
  ncclResult_t state(const char* doing, const Operation* operation);
  void look(bool judge_time);
  bool front_is_done();
  bool reached(cudaEvent_t event, const Operation& operation);
  bool note(cudaError_t status, const std::string& doing);  ///< false: it failed, and that is noted
  void note_failure(Failure failure);
  bool make_line(const std::string& doing);
  bool record(cudaEvent_t& event, cudaStream_t where, const std::string& doing);
  /// What is put into `where` later waits for the event.
  bool order(cudaStream_t where, cudaEvent_t event, const std::string& doing);
  void retire_front();

  const int device_;
  const cudaStream_t queue_;
  cudaStream_t line_ = nullptr;  ///< NCCL's own queue
  const double timeout_;

  std::mutex mutex_;
  std::condition_variable changed_;
  ncclComm_t comm_ = nullptr;    ///< null before start and after a failure
  ncclComm_t doomed_ = nullptr;  ///< to be aborted
  bool aborting_ = false;
  bool entering_ = false;  ///< the last operation is not yet in the queue
  int caller_looks_ = 0;
  bool ending_ = false;
  bool thread_done_ = true;
  Stopwatch since_call_;
  std::int64_t operations_so_far_ = 0;
  std::deque<Operation> operations_;
  std::vector<cudaEvent_t> spare_events_;
  std::optional<Failure> failure_;
  std::thread thread_;
};

}  // namespace gptq::nccl
