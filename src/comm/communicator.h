#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"

namespace gptq {

/// A message, or a collective that was begun, under way. Its memory must stay until it is done.
class Transfer {
 public:
  virtual ~Transfer() = default;  ///< gives up what is not done; for the unwinding of errors
  virtual bool done() = 0;        ///< does not wait
  /// Throws CommError naming the ranks that hang, like a collective, or if the sizes of both ends differ.
  virtual void wait() = 0;
};

/// A group of ranks that act together: the world, or a part of it made by split(). Every member call is
/// collective unless it says otherwise.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  bool is_root() const { return rank() == 0; }
  virtual bool covers_world() const = 0;  ///< are all ranks of the program in it? Not collective
  /// The number that users know a rank by: that among all ranks of the program. Not collective.
  virtual int world_rank(int rank) const = 0;

  /// How long a rank waits for the others, on every rank the same; for all communicators split from this one
  /// as well. Not collective itself. After that CommError names the ranks that hang.
  virtual void set_timeout(double seconds) = 0;
  /// From now on ranks may work for long while others wait, and attend() meanwhile: one hangs when it has not
  /// done so for the timeout. Otherwise who is awaited for the timeout and is in no collective hangs. On
  /// every rank; not collective itself.
  virtual void expect_busy_ranks() = 0;
  /// For a rank that computes for long: tells those that ask that it is busy. Cheap, often called, not
  /// collective. Throws CommError where it finds, on behalf of others, that a rank hangs.
  virtual void attend() = 0;
  /// How long this rank has waited for others so far, on any communicator: messages with the time in which
  /// their bytes move, large collectives without it. Not collective.
  virtual double waited_seconds() const = 0;
  /// Once a rank has waited for the timeout, those that hang are named within so many seconds. Not
  /// collective.
  virtual double seconds_to_name() const = 0;
  /// Done again and again while this rank waits on any communicator: for what must go on meanwhile, such as
  /// messages of its own. Must not wait itself. Empty: nothing. Not collective.
  virtual void set_idle_work(std::function<void()> work) = 0;

  /// Those with the same colour (>= 0), in rank order. A team's ranks leave it together: nobody destroys it
  /// while others are in a collective of it.
  virtual std::unique_ptr<Communicator> split(int color) = 0;

  virtual void barrier() = 0;
  virtual void broadcast(void* data, std::size_t bytes, int root) = 0;
  virtual void all_reduce_sum(std::span<std::int64_t> values) = 0;  ///< exact, the same on every rank
  /// Of values >= 0; exact. A NaN anywhere gives NaN everywhere.
  virtual void all_reduce_max(std::span<float> magnitudes) = 0;
  virtual void all_reduce_max(std::span<std::int64_t> values) = 0;
  /// The same, begun now: other work and collectives may go on until it is done, which is when `values` get
  /// the result. This communicator must be there until then.
  virtual std::unique_ptr<Transfer> begin_max(std::span<std::int64_t> values) = 0;
  /// Every rank's bytes, in rank order, on every rank.
  virtual std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) = 0;
  /// parts: one for each rank, the root's; of others ignored. Returns this rank's.
  virtual std::vector<std::byte> scatter(std::span<const std::span<const std::byte>> parts, int root) = 0;
  /// parts: one for each rank. Returns what each rank had for this one, in rank order.
  virtual std::vector<std::vector<std::byte>> all_to_all(
      std::span<const std::span<const std::byte>> parts) = 0;

  /// A message to one rank, which receives the same number of bytes, 0 included, under this tag, in [0,
  /// kTags). Messages of one tag arrive in their order. Not collective.
  virtual std::unique_ptr<Transfer> send(std::span<const std::byte> data, int to, int tag) = 0;
  virtual std::unique_ptr<Transfer> receive(std::span<std::byte> data, int from, int tag) = 0;
  static constexpr int kTags = 16384;
  /// Waits until `done` says so, which is asked often and may itself move messages from or to `peer`; throws
  /// like Transfer::wait. Not collective.
  virtual void wait_for_messages(const char* what, int peer, const std::function<bool()>& done) = 0;

  /// Waits for something that goes on among the ranks outside this communicator (NCCL), as a collective of it
  /// waits: answering the others, and throwing CommError with the names of the ranks that hang. `waiting` is
  /// asked often: for how many seconds this rank has been waiting for others, or nothing when it is over.
  virtual void wait_outside(const char* operation, const std::function<std::optional<double>()>& waiting) = 0;
};

/// Every rank of the world knows of it: the root speaks, all end.
class CollectiveError : public Error {
 public:
  using Error::Error;
};

/// The other ranks of a smaller team know of it; one of them speaks and ends all.
class TeamError : public CollectiveError {
 public:
  using CollectiveError::CollectiveError;
};

/// Runs `action` on one rank and brings its outcome to all of `comm`. A failure is thrown on every rank with
/// that rank's message: as CollectiveError where they are the world, so that all ranks end together and only
/// one of them speaks; in a smaller team as a plain Error by the rank that failed, whose main speaks and ends
/// all, and as TeamError by the others.
void run_on(Communicator& comm, int root, const std::function<void()>& action);
void run_on_root(Communicator& comm, const std::function<void()>& action);

/// Every rank says what problem it has, or nothing. Returns the first rank's, with its number, on all of
/// them; empty: nobody has one. For what may fail without ending the job. Collective.
std::string first_problem(Communicator& comm, const std::string& problem);

/// The same, but all of them throw, with the exit code of communication, as run_on does. Collective.
void fail_together(Communicator& comm, const std::string& problem);

/// Owns MPI_Init and MPI_Finalize. Without mpirun the world has one rank.
class MpiRuntime {
 public:
  MpiRuntime(int* argc, char*** argv);
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  std::unique_ptr<Communicator> world();
  /// Ends all ranks with this code at once; for main, after an error on one rank.
  [[noreturn]] void abort(int exit_code);
  static std::string library_version();
};

}  // namespace gptq
