#include "io/lock_holder.h"

#include <fmt/chrono.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "base/error.h"
#include "base/process.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kHeartbeatWidth = 19;
constexpr const char* kHeartbeatKey = "\"heartbeat\": ";

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

struct ProcessState {
  char state = '?';
  std::int64_t start = 0;
};

/// Of /proc/PID/stat; nothing if there is none.
std::optional<ProcessState> process_state(std::int64_t pid) {
  const std::string line = first_line(fmt::format("/proc/{}/stat", pid));
  // The second field is the program's name in parentheses, which may hold anything.
  const std::size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(line.substr(name_end + 1));
  ProcessState process;
  fields >> process.state;
  std::string skipped;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  fields >> process.start;
  return fields ? std::optional(process) : std::nullopt;
}

bool process_is_gone(const LockHolder& holder) {
  if (kill(static_cast<pid_t>(holder.pid), 0) != 0 && errno == ESRCH) return true;
  const std::optional<ProcessState> now = process_state(holder.pid);
  if (!now) return false;  // other users' processes may be hidden
  return now->start != holder.process_start || now->state == 'Z' || now->state == 'X';
}

std::string random_token() {
  std::random_device random;
  std::string token;
  for (int part = 0; part < 4; ++part) token += fmt::format("{:08x}", random());
  return token;
}

}  // namespace

LockHolder LockHolder::this_process() {
  LockHolder holder;
  holder.token = random_token();
  holder.host = host_name();
  holder.boot = first_line("/proc/sys/kernel/random/boot_id");
  std::error_code unknown;
  holder.pid_space = fs::read_symlink("/proc/self/ns/pid", unknown).string();
  holder.pid = getpid();
  if (const auto process = process_state(holder.pid)) holder.process_start = process->start;
  holder.cluster = environment("SLURM_CLUSTER_NAME");
  holder.batch_job = environment("SLURM_JOB_ID");
  holder.restart_count = std::strtoll(environment("SLURM_RESTART_COUNT").c_str(), nullptr, 10);
  holder.started = fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(std::time(nullptr)));
  return holder;
}

std::string LockHolder::who() const {
  if (token.empty()) return "a job whose lock file is damaged";
  std::string job;
  if (!batch_job.empty()) {
    job = fmt::format(" (Slurm job {}{})", batch_job,
                      restart_count > 0 ? fmt::format(", restart {}", restart_count) : "");
  }
  return fmt::format("process {} on {}{}, since {}", pid, host, job, started);
}

std::string to_json(const LockHolder& holder) {
  nlohmann::ordered_json json;
  json["token"] = holder.token;
  json["host"] = holder.host;
  json["boot"] = holder.boot;
  json["pid_space"] = holder.pid_space;
  json["pid"] = holder.pid;
  json["process_start"] = holder.process_start;
  json["cluster"] = holder.cluster;
  json["batch_job"] = holder.batch_job;
  json["restart_count"] = holder.restart_count;
  json["started"] = holder.started;
  json["heartbeat"] = 0;
  std::string text = json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  const HeartbeatPlace place = heartbeat_place(text);
  return text.insert(place.offset + 1, place.width - 1, ' ') + "\n";
}

HeartbeatPlace heartbeat_place(const std::string& text) {
  const std::size_t key = text.rfind(kHeartbeatKey);
  GPTQ_EXPECT(key != std::string::npos);
  return {key + std::string(kHeartbeatKey).size(), kHeartbeatWidth};
}

std::optional<LockHolder> read_lock(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) {
    std::error_code error;
    if (!fs::exists(file, error) && !error) return std::nullopt;
    throw IoError("cannot open the lock {}: check its permissions", file.string());
  }
  LockHolder holder;
  holder.text.assign(std::istreambuf_iterator<char>(stream), {});
  const nlohmann::json json = nlohmann::json::parse(holder.text, nullptr, false);
  try {
    holder.host = json.at("host");
    holder.boot = json.at("boot");
    holder.pid_space = json.at("pid_space");
    holder.pid = json.at("pid");
    holder.process_start = json.at("process_start");
    holder.cluster = json.at("cluster");
    holder.batch_job = json.at("batch_job");
    holder.restart_count = json.at("restart_count");
    holder.started = json.at("started");
    holder.token = json.at("token");
  } catch (const nlohmann::json::exception&) {
    LockHolder damaged;
    damaged.text = holder.text;
    return damaged;
  }
  return holder;
}

std::optional<std::string> gone_because(const LockHolder& holder, const LockHolder& self) {
  if (holder.token.empty()) return std::nullopt;
  const bool same_host =
      holder.host == self.host && holder.boot == self.boot && holder.pid_space == self.pid_space;
  if (same_host && process_is_gone(holder)) return "its process is gone";
  const bool same_job =
      !holder.batch_job.empty() && holder.batch_job == self.batch_job && holder.cluster == self.cluster;
  if (same_job && holder.restart_count < self.restart_count) {
    return "it was an earlier attempt of this batch job";
  }
  return std::nullopt;
}

}  // namespace gptq
