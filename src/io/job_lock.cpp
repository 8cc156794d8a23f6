#include "io/job_lock.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "io/lock_holder.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const fs::path& lock, const LockHolder& holder) {
  const std::string stop = holder.batch_job.empty()
                               ? fmt::format("stop it (kill {} on {})", holder.pid, holder.host)
                               : fmt::format("stop it (scancel {})", holder.batch_job);
  throw IoError(
      "another job works in {}: {}; wait for its end, {}, or choose another output.path. If it is surely "
      "dead, "
      "remove {}",
      lock.parent_path().string(), holder.who(), stop, lock.string());
}

/// Returns why the holder counts as gone; nothing if its file changed hands meanwhile. Throws if it is alive.
std::optional<std::string> reason_it_is_gone(const fs::path& file, const LockHolder& holder,
                                             const LockHolder& self, const JobLock::Timing& timing) {
  if (const auto reason = gone_because(holder, self)) return reason;
  log::info("{} is locked by {}; watching for up to {} s whether it is alive", file.parent_path().string(),
            holder.who(), std::chrono::duration<double>(timing.patience).count());
  const auto end = std::chrono::steady_clock::now() + timing.patience;
  while (std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::min(timing.heartbeat, timing.patience) / 4);
    const std::optional<LockHolder> now = read_lock(file);
    if (!now || now->token != holder.token) return std::nullopt;
    if (now->text != holder.text) refuse(file, holder);
    if (const auto reason = gone_because(holder, self)) return reason;
  }
  return fmt::format("its heartbeat stood still for {} s",
                     std::chrono::duration<double>(timing.patience).count());
}

[[noreturn]] void cannot_make(const fs::path& lock, int code) {
  throw IoError("cannot make the lock {}: {}; check output.path, its permissions and its free space",
                lock.string(), std::strerror(code));
}

/// For file systems without hard links. A reader may see the file before its text; it then looks damaged for
/// a moment.
bool copy_exclusively(const fs::path& from, const fs::path& to) {
  const int descriptor = ::open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor < 0 && errno == EEXIST) return false;
  if (descriptor < 0) cannot_make(to, errno);
  const std::string text = read_text_file(from);
  const ssize_t written = ::write(descriptor, text.data(), text.size());
  const int code = errno;
  if (::close(descriptor) == 0 && written == static_cast<ssize_t>(text.size())) return true;
  ::unlink(to.c_str());
  cannot_make(to, code);
}

/// True if `to` did not exist and now has the content of `from`: in one step where there are hard links.
bool link_exclusively(const fs::path& from, const fs::path& to) {
  if (::link(from.c_str(), to.c_str()) == 0) return true;
  const int code = errno;
  // A network file system may have done it, lost the answer and tried again: the number of names tells.
  struct stat status {};
  if (code == EEXIST) return ::stat(from.c_str(), &status) == 0 && status.st_nlink > 1;
  if (code == EPERM || code == EOPNOTSUPP || code == ENOSYS) return copy_exclusively(from, to);
  cannot_make(to, code);
}

/// A file with this job's holder in it, under a name of its own until it becomes the lock.
class Candidate {
 public:
  Candidate(const fs::path& lock, const LockHolder& self) : path_(lock.string() + ".new-" + self.token) {
    const std::string text = to_json(self);
    File file = File::create(path_);
    file.write_at(text.data(), text.size(), 0);
    file.sync();
    file.close();
  }
  ~Candidate() { ::unlink(path_.c_str()); }
  Candidate(const Candidate&) = delete;
  Candidate& operator=(const Candidate&) = delete;

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// The right to replace the lock of that token: whoever makes this file first has it, and nobody ever after.
fs::path claim_on(const fs::path& lock, const LockHolder& holder) {
  return lock.string() + ".after-" + (holder.token.empty() ? "damage" : holder.token);
}

/// Puts this job's lock in place of a dead one's; false if another job was faster or the lock changed. A
/// claimant that died before it replaced the lock is itself followed by a claim on its claim, and so on: no
/// claim is ever removed while its lock stands, so that two jobs never both believe to have won.
bool take_over(const fs::path& lock, const LockHolder& dead, const std::string& reason,
               const LockHolder& self, const JobLock::Timing& timing) {
  std::vector<fs::path> claims{claim_on(lock, dead)};
  while (true) {
    {
      const Candidate candidate(lock, self);
      if (link_exclusively(candidate.path(), claims.back())) break;
    }
    const std::optional<LockHolder> claimant = read_lock(claims.back());
    if (!claimant || !reason_it_is_gone(claims.back(), *claimant, self, timing)) return false;
    claims.push_back(claim_on(lock, *claimant));
  }
  const std::optional<LockHolder> now = read_lock(lock);
  const bool still = now && now->token == dead.token && (!dead.token.empty() || now->text == dead.text);
  if (still) {
    log::warn("taking over {} from {}: {}", lock.parent_path().string(), dead.who(), reason);
    // A copy, so that claims and lock are different files: a rename between names of one file does nothing.
    const Candidate replacement(lock, self);
    publish_file(replacement.path(), lock);
  }
  for (auto claim = claims.rbegin(); claim != claims.rend(); ++claim) ::unlink(claim->c_str());
  return still;
}

/// Files beside the lock that candidates left when they were killed. Living ones need theirs for moments
/// only.
void remove_leftovers(const fs::path& lock, const JobLock::Timing& timing) {
  const std::string prefix = lock.filename().string() + ".";
  const auto old = fs::file_time_type::clock::now() -
                   std::max<std::chrono::milliseconds>(10 * timing.patience, std::chrono::minutes(10));
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(lock.parent_path(), ignored)) {
    const bool beside = entry.path().filename().string().starts_with(prefix);
    if (beside && entry.last_write_time(ignored) < old && !ignored) fs::remove(entry.path(), ignored);
  }
}

bool create_lock(const fs::path& lock, const LockHolder& self) {
  const Candidate candidate(lock, self);
  return link_exclusively(candidate.path(), lock);
}

void acquire(const fs::path& lock, const LockHolder& self, const JobLock::Timing& timing) {
  while (!create_lock(lock, self)) {
    const std::optional<LockHolder> holder = read_lock(lock);
    if (!holder) continue;
    const auto reason = reason_it_is_gone(lock, *holder, self, timing);
    if (reason && take_over(lock, *holder, *reason, self, timing)) return;
  }
}

}  // namespace

struct JobLock::State {
  State(fs::path directory, Timing with)
      : path(std::move(directory) / kLockFile), timing(with), self(LockHolder::this_process()) {}

  bool still_mine() const {
    const std::optional<LockHolder> holder = read_lock(path);
    return holder && holder->token == self.token;
  }

  /// Raises the count in the file that this job made, not in whatever bears its name now: after a takeover
  /// that file has no name any more, and the new holder's stays as it is.
  void beat(std::int64_t count) {
    const std::string text = to_json(self);
    const HeartbeatPlace place = heartbeat_place(text);
    const std::string digits = fmt::format("{:<{}}", count, place.width);
    const ssize_t written =
        ::pwrite(descriptor, digits.data(), digits.size(), static_cast<off_t>(place.offset));
    // Network file systems send changes to the server at a close, even of a duplicate. fsync would do it too,
    // but may wait for gigabytes of other data on a local disk.
    const int duplicate = ::dup(descriptor);
    const bool sent = duplicate >= 0 && ::close(duplicate) == 0;
    if (!sent || written != static_cast<ssize_t>(digits.size())) {
      if (!warned) log::warn("cannot write to the lock {}: {}", path.string(), std::strerror(errno));
      warned = true;
    }
  }

  void beat_until_stopped() {
    std::unique_lock guard(mutex);
    for (std::int64_t count = 1; !stopped.wait_for(guard, timing.heartbeat, [&] { return stop; }); ++count) {
      beat(count);
    }
  }

  fs::path path;
  Timing timing;
  LockHolder self;
  int descriptor = -1;  ///< of the lock file
  bool warned = false;
  bool stop = false;
  std::mutex mutex;
  std::condition_variable stopped;
  std::thread heart;
};

JobLock::JobLock(fs::path directory, Timing timing) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) {
    throw IoError("cannot make the job directory {}: {}; check output.path and its permissions",
                  directory.string(), error.message());
  }
  state_ = std::make_unique<State>(std::move(directory), timing);
  acquire(state_->path, state_->self, timing);
  state_->descriptor = ::open(state_->path.c_str(), O_WRONLY | O_CLOEXEC);
  if (state_->descriptor < 0 || !state_->still_mine()) {
    if (state_->descriptor >= 0) ::close(state_->descriptor);
    throw IoError("the lock {} was taken away at once; is another job starting in this directory?",
                  state_->path.string());
  }
  remove_leftovers(state_->path, timing);
  state_->heart = std::thread([state = state_.get()] { state->beat_until_stopped(); });
}

JobLock::~JobLock() {
  {
    const std::lock_guard guard(state_->mutex);
    state_->stop = true;
  }
  state_->stopped.notify_all();
  state_->heart.join();
  ::close(state_->descriptor);
  try {
    if (state_->still_mine() && ::unlink(state_->path.c_str()) != 0) {
      log::warn("cannot remove the lock {}: {}; the next job here takes it over", state_->path.string(),
                std::strerror(errno));
    }
  } catch (const Error& error) {
    log::warn("cannot remove the lock {}: {}", state_->path.string(), error.what());
  }
}

void JobLock::require_held() const {
  const std::optional<LockHolder> holder = read_lock(state_->path);
  if (holder && holder->token == state_->self.token) return;
  throw IoError("{} is no longer this job's: {}; this job ends without touching it. Was it stopped for long?",
                state_->path.parent_path().string(),
                holder ? "it was taken over by " + holder->who()
                       : "its lock " + state_->path.string() + " was removed");
}

}  // namespace gptq
