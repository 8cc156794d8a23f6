#include "pipeline/job_directory.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "io/output_directory.h"

namespace gptq {

namespace fs = std::filesystem;

fs::path checkpoint_path(const JobConfig& job) {
  return job.checkpoint.path.empty() ? fs::path(job.output.path) / "checkpoint"
                                     : fs::path(job.checkpoint.path);
}

fs::path spill_path(const JobConfig& job) {
  return job.compute.spill_path.empty() ? fs::path(job.output.path) / "spill"
                                        : fs::path(job.compute.spill_path);
}

JobDirectory::JobDirectory(const JobConfig& job, bool fresh, Communicator& comm)
    : comm_(comm), checkpoint_(checkpoint_path(job)) {
  run_on_root(comm, [&] {
    const fs::path output = job.output.path;
    make_output_directory(output);
    std::error_code none;
    const fs::file_time_type alive = fs::last_write_time(output / kLockFile, none);
    if (!none) last_sign_of_life_ = alive;
    lock_.emplace(output);
    if (!job.checkpoint.path.empty()) {
      checkpoint_.create();
      checkpoint_lock_.emplace(checkpoint_.path());
    }
    if (!fresh || !checkpoint_.exists()) return;
    if (!job.output.overwrite) {
      throw IoError(
          "{} holds the checkpoint of an interrupted job, and --fresh would discard its work; give "
          "--overwrite as well if that is meant, or leave --fresh out to go on",
          checkpoint_.path().string());
    }
    checkpoint_.remove_all();
  });
}

void JobDirectory::require_held() const {
  lock_->require_held();
  if (checkpoint_lock_) checkpoint_lock_->require_held();
}

double JobDirectory::lost_seconds(const CheckpointManifest& manifest) const {
  if (!last_sign_of_life_) return 0;
  std::error_code error;
  const fs::file_time_type kept = fs::last_write_time(checkpoint_.path() / manifest.file_name(), error);
  if (error) return 0;
  return std::max(0.0, std::chrono::duration<double>(*last_sign_of_life_ - kept).count());
}

}  // namespace gptq
