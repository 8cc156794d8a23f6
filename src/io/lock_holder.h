#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace gptq {

/// Who holds a job lock, as its file says. The file is JSON; its last value is the heartbeat, at a fixed
/// place and of a fixed width, so that it can be raised in place.
struct LockHolder {
  std::string token;  ///< of this one holding: never used again; empty if the file is damaged
  std::string host;
  std::string boot;       ///< the kernel's boot id: tells hosts of one name apart
  std::string pid_space;  ///< pid namespace: process ids of another container mean nothing here
  std::int64_t pid = 0;
  std::int64_t process_start = 0;  ///< in the kernel's ticks since boot: tells processes of one id apart
  std::string cluster;             ///< SLURM_CLUSTER_NAME
  std::string batch_job;           ///< SLURM_JOB_ID; empty outside a batch job
  std::int64_t restart_count = 0;  ///< SLURM_RESTART_COUNT
  std::string started;             ///< UTC
  std::string text;                ///< the whole file: it moves with every heartbeat

  static LockHolder this_process();

  /// "process 4242 on node17 (Slurm job 99, restart 1), since 2026-01-31 12:00:00 UTC"
  std::string who() const;
};

std::string to_json(const LockHolder& holder);
/// Nothing if the file does not exist. A damaged one gives a holder with `text` alone.
std::optional<LockHolder> read_lock(const std::filesystem::path& file);

/// Where in to_json's text the heartbeat's digits stand, and how many there are.
struct HeartbeatPlace {
  std::size_t offset;
  std::size_t width;
};
HeartbeatPlace heartbeat_place(const std::string& text);

/// Why this process can know at once that the holder is gone; nothing if only its heartbeat can tell.
std::optional<std::string> gone_because(const LockHolder& holder, const LockHolder& self);

}  // namespace gptq
