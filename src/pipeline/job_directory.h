#pragma once

#include <map>
#include <optional>
#include <string>

#include "comm/communicator.h"
#include "config/job_config.h"
#include "io/checkpoint_directory.h"
#include "io/job_lock.h"
#include "pipeline/resume.h"

namespace gptq {

/// The directory a job works in: locked while this lives, so that one job at a time is in it, and the
/// checkpoint that an earlier attempt may have left there. Collective.
class JobDirectory {
 public:
  /// Makes and locks output.path. fresh: discards the checkpoint, if output.overwrite allows it. Throws on
  /// every rank.
  JobDirectory(const JobConfig& job, bool fresh, Communicator& comm);

  const CheckpointDirectory& checkpoint() const { return checkpoint_; }
  /// See find_checkpoint.
  FoundCheckpoint find(const std::map<std::string, std::string>& identity, bool other_backend,
                       const DamageInBlocks& damage) const {
    return find_checkpoint(checkpoint_, identity, other_backend, damage, comm_);
  }
  /// Seconds between the checkpoint and the earlier attempt's last sign of life: the work that was lost. 0
  /// where it ended in order. The root's.
  double lost_seconds(const CheckpointManifest& manifest) const;
  /// Throws IoError if another job has taken the directory over. The root's.
  void require_held() const;

 private:
  Communicator& comm_;
  CheckpointDirectory checkpoint_;
  std::optional<std::filesystem::file_time_type>
      last_sign_of_life_;                   ///< of an attempt that left its lock behind
  std::optional<JobLock> lock_;             ///< the root's
  std::optional<JobLock> checkpoint_lock_;  ///< where checkpoint.path is given
};

/// checkpoint.path, or its default inside output.path.
std::filesystem::path checkpoint_path(const JobConfig& job);
/// compute.spill_path, or its default inside output.path.
std::filesystem::path spill_path(const JobConfig& job);

}  // namespace gptq
