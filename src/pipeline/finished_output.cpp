#include "pipeline/finished_output.h"

#include <filesystem>

#include "io/checkpoint_directory.h"
#include "io/exporter.h"
#include "io/job_lock.h"
#include "io/output_directory.h"
#include "pipeline/job_directory.h"

namespace gptq {
namespace {

/// An attempt that was killed after its last write may have left its marker and checkpoint behind.
void tidy(const JobConfig& job) {
  const CheckpointDirectory checkpoint(checkpoint_path(job));
  const std::filesystem::path output = job.output.path;
  const auto there = [](const std::filesystem::path& path) {
    std::error_code ignored;
    return std::filesystem::exists(path, ignored);
  };
  if (!there(checkpoint.path()) && !there(output / kJobMarker) && !there(output / kLockFile)) return;
  const JobLock lock(job.output.path);
  checkpoint.remove_all();
  release_output_directory(job.output.path);
}

}  // namespace

bool already_finished(const JobConfig& job, const std::string& fingerprint, Communicator& comm) {
  std::int64_t finished = 0;
  run_on_root(comm, [&] {
    finished = !job.output.overwrite && is_finished_output(job.output.path, fingerprint) ? 1 : 0;
    if (finished != 0) tidy(job);
  });
  comm.broadcast(&finished, sizeof(finished), 0);
  return finished != 0;
}

}  // namespace gptq
