#pragma once

#include <array>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/job_config.h"
#include "io/checkpoint_directory.h"
#include "io/finished_blocks.h"
#include "pipeline/phase_clock.h"
#include "pipeline/snapshot.h"

namespace gptq {

/// Thrown on every rank when the job was asked to stop: exit code `come_back`.
class Stopped : public CollectiveError {
 public:
  explicit Stopped(const std::string& message) : CollectiveError(ExitCode::come_back, message) {}
};

/// Decides at every safe point, for all ranks together, whether to checkpoint or to stop; takes a snapshot of
/// the state and lets a thread write it while the job goes on; commits the generation at a later safe point,
/// when every rank's file is there. A checkpoint that cannot be written is a warning: the job goes on, the
/// older generation counts.
class Checkpointer {
 public:
  /// What the manifest says beside the position.
  struct Job {
    std::map<std::string, std::string> identity;
    std::map<std::string, std::string> made_with;
    double seconds_before = 0;  ///< work of earlier attempts
    std::int64_t attempts = 1;
  };
  /// What is done at every commit: written_blocks by every rank, the rest by the root.
  struct AtCommit {
    /// Throws if another job has taken the directory over. Unlike a full disk, that ends this job.
    std::function<void()> require_held;
    /// Brings what this rank has written of the blocks before this one to disk; their SHA-256, and those that
    /// earlier attempts wrote.
    std::function<BlockHashes(std::int64_t block)> written_blocks;
    /// What others have written is on disk.
    std::function<void(const BlockHashes& blocks)> take_blocks;
  };

  Checkpointer(const CheckpointSection& options, CheckpointDirectory directory, Job job, Backend& backend,
               Communicator& comm, PhaseClock& phases, AtCommit at_commit);
  ~Checkpointer();  ///< waits for the writer

  /// Generations found damaged: a good one takes their place before they are removed.
  void discard_at_next_commit(std::vector<std::int64_t> damaged) { damaged_ = std::move(damaged); }
  /// Collective. layers: statistics of the layers of finished blocks, each on one rank. Throws Stopped.
  void at_safe_point(const SafePoint& point, const std::vector<LayerStatistics>& layers);
  /// For ranks that should not wait for each other at every safe point: a question to all of them, which
  /// is answered when all have asked it; and the answer to the last one: is there anything to be done at a
  /// safe point? Collective, each. Whoever asks must hear the answer before the next safe point.
  void ask();
  bool is_wanted();
  /// The output is complete: no checkpoint is needed any more. Collective.
  void remove();

 private:
  std::array<std::int64_t, 3> flags() const;
  bool due() const;
  bool still_writing() const;
  void begin(const SafePoint& point, const std::vector<LayerStatistics>& layers);
  void commit();
  std::string contribution();
  void commit_on_root(const std::vector<std::vector<std::byte>>& outcomes);

  CheckpointSection options_;
  Job job_;
  Backend& backend_;
  Communicator& comm_;
  PhaseClock& phases_;
  AtCommit at_commit_;
  CheckpointDirectory directory_;
  std::int64_t next_generation_ = 1;
  std::int64_t committed_ = 0;  ///< newest generation of this attempt; the root's
  std::unique_ptr<Snapshot> snapshot_;
  std::vector<std::int64_t> damaged_;
  bool pending_ = false;  ///< begun and not committed; the same on every rank
  std::future<WrittenFile> writing_;
  std::array<std::int64_t, 3> asked_{};
  std::unique_ptr<Transfer> answer_;  ///< null: nothing was asked
  Stopwatch since_begin_;
  Stopwatch job_watch_;
};

}  // namespace gptq
