#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

namespace gptq {

/// At most one job works in a directory. A file that is created exclusively, which also network file systems
/// do in one step, names host, process, batch job and a count that a thread raises in place every few seconds
/// (the heartbeat). A lock is stale when its process is gone from this very host, when it belongs to an
/// earlier attempt of the same batch job, or when its heartbeat has not moved while it was watched for
/// `patience`.
class JobLock {
 public:
  struct Timing {
    std::chrono::milliseconds heartbeat{5000};
    std::chrono::milliseconds patience{30000};
  };

  /// Makes the directory if need be. Takes up to `patience` where only the heartbeat can tell. Throws
  /// IoError, saying who holds it and what to do, if another job is alive there. Warns when it takes over a
  /// stale lock.
  explicit JobLock(std::filesystem::path directory) : JobLock(std::move(directory), Timing{}) {}
  JobLock(std::filesystem::path directory, Timing timing);
  ~JobLock();  ///< removes the lock if it is still this job's
  JobLock(const JobLock&) = delete;
  JobLock& operator=(const JobLock&) = delete;

  /// Throws IoError if another job has taken the lock away meanwhile (this process was frozen for long).
  void require_held() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

inline constexpr const char* kLockFile = ".gptq-hpc-lock";

}  // namespace gptq
