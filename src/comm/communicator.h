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

/// A group of ranks that act together. Every member call is collective unless it says otherwise.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  bool is_root() const { return rank() == 0; }

  /// How long a rank waits in a collective for the others, on every rank the same; not collective itself.
  /// After that CommError names the ranks that hang.
  virtual void set_timeout(double seconds) = 0;

  virtual void barrier() = 0;
  virtual void broadcast(void* data, std::size_t bytes, int root) = 0;
  virtual void all_reduce_sum(std::span<std::int64_t> values) = 0;  ///< exact, the same on every rank
  /// Of values >= 0; exact. A NaN anywhere gives NaN everywhere.
  virtual void all_reduce_max(std::span<float> magnitudes) = 0;
  virtual void all_reduce_max(std::span<std::int64_t> values) = 0;
  /// Every rank's bytes, in rank order, on every rank.
  virtual std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) = 0;

  /// Waits for something that goes on among the ranks outside this communicator (NCCL), as a collective of it
  /// waits: answering the others, and throwing CommError with the names of the ranks that hang. `waiting` is
  /// asked often: for how many seconds this rank has been waiting for others, or nothing when it is over.
  virtual void wait_outside(const char* operation, const std::function<std::optional<double>()>& waiting) = 0;
};

/// Runs `action` on the root and brings its outcome to every rank: a failure is thrown everywhere as
/// CollectiveError with the root's message, so that all ranks end together and only one of them speaks.
void run_on_root(Communicator& comm, const std::function<void()>& action);

class CollectiveError : public Error {
 public:
  using Error::Error;
};

/// Every rank says what problem it has, or nothing. If any has one, all of them throw the first rank's as a
/// CollectiveError with the exit code of communication. Collective.
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
