// At most one job in a directory: living holders are respected, dead ones are followed by exactly one job.
#include "io/job_lock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/process.h"
#include "io/lock_holder.h"
#include "support/temp_directory.h"

namespace gptq {
namespace {

using std::chrono::milliseconds;
using test::TempDirectory;
using testing::AllOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

/// Patience outlasts a busy machine's hiccups; a test that waits for all of it uses kImpatient.
constexpr JobLock::Timing kQuick{milliseconds(10), milliseconds(5000)};
constexpr JobLock::Timing kImpatient{milliseconds(10), milliseconds(200)};
/// A test that passes with this never waited.
constexpr JobLock::Timing kNever{milliseconds(10), std::chrono::hours(1)};

LockHolder elsewhere() {
  LockHolder holder = LockHolder::this_process();
  holder.host = "far-away";
  holder.boot = "another boot";
  return holder;
}

std::string refusal(const fs::path& directory, JobLock::Timing timing) {
  try {
    const JobLock lock(directory, timing);
    return "";
  } catch (const IoError& error) {
    return error.what();
  }
}

std::size_t files_in(const fs::path& directory) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(directory), {}));
}

class JobLockTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_CLUSTER_NAME"}) unsetenv(name);
  }
  void TearDown() override { SetUp(); }
  void leave(const LockHolder& holder) const { write_file(lock_, to_json(holder)); }

  TempDirectory directory_;
  fs::path lock_ = fs::path(directory_.path()) / kLockFile;
};

TEST_F(JobLockTest, ALivingJobIsRespectedAndNamed) {
  const JobLock lock(directory_.path(), kQuick);
  EXPECT_THAT(refusal(directory_.path(), kQuick),
              AllOf(HasSubstr("another job works in"), HasSubstr(std::to_string(getpid())),
                    HasSubstr(host_name()), HasSubstr("UTC"), HasSubstr(kLockFile)));
  EXPECT_NO_THROW(lock.require_held());
}

TEST_F(JobLockTest, LeavesNothingBehind) {
  { const JobLock lock(directory_.path(), kQuick); }
  EXPECT_EQ(files_in(directory_.path()), 0u);
  { const JobLock again(fs::path(directory_.path()) / "made" / "by it", kNever); }
  leave(elsewhere());
  { const JobLock taken(directory_.path(), kImpatient); }
  EXPECT_EQ(files_in(directory_.path()), 1u) << "only the folder made above";
}

TEST_F(JobLockTest, AKilledProcessIsFollowedAtOnce) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const JobLock lock(directory_.path(), kQuick);
    if (write(ready[1], "x", 1) != 1) _exit(1);
    while (true) pause();
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  kill(child, SIGKILL);
  siginfo_t ended{};
  waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOWAIT);  // a zombie is dead as well
  { const JobLock lock(directory_.path(), kNever); }
  waitpid(child, nullptr, 0);
}

TEST_F(JobLockTest, AnotherProcessWithTheSameIdIsNotTheHolder) {
  LockHolder holder = LockHolder::this_process();
  holder.process_start -= 1;
  leave(holder);
  EXPECT_EQ(refusal(directory_.path(), kNever), "");
}

TEST_F(JobLockTest, AProcessIdOfAnotherContainerSaysNothing) {
  LockHolder holder = LockHolder::this_process();
  holder.process_start -= 1;
  holder.pid_space = "pid:[1]";
  EXPECT_FALSE(gone_because(holder, LockHolder::this_process()));
}

TEST_F(JobLockTest, AStillHeartElsewhereIsDeadAfterThePatience) {
  leave(elsewhere());
  const auto start = std::chrono::steady_clock::now();
  const JobLock lock(directory_.path(), kImpatient);
  EXPECT_GE(std::chrono::steady_clock::now() - start, kImpatient.patience);
  EXPECT_NO_THROW(lock.require_held());
}

TEST_F(JobLockTest, ABeatingHeartElsewhereIsAlive) {
  const std::string text = to_json(elsewhere());
  const HeartbeatPlace place = heartbeat_place(text);
  leave(elsewhere());
  std::atomic<bool> stop{false};
  std::thread heart([&] {
    std::string beating = text;
    for (int count = 1; !stop; ++count) {
      beating.replace(place.offset, place.width, fmt::format("{:<{}}", count, place.width));
      write_file(lock_, beating);
      std::this_thread::sleep_for(milliseconds(5));
    }
  });
  EXPECT_THAT(refusal(directory_.path(), kQuick), HasSubstr("far-away"));
  stop = true;
  heart.join();
}

TEST_F(JobLockTest, TheHeartbeatMovesAndTheFileStaysJson) {
  const JobLock lock(directory_.path(), kQuick);
  const std::string before = read_text_file(lock_);
  std::string after = before;
  for (int i = 0; i < 500 && after == before; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
    after = read_text_file(lock_);
  }
  EXPECT_NE(after, before);
  EXPECT_EQ(after.size(), before.size());
  EXPECT_EQ(read_lock(lock_)->pid, getpid());
}

TEST_F(JobLockTest, ALaterAttemptOfTheSameBatchJobFollowsAtOnce) {
  LockHolder holder = elsewhere();
  holder.batch_job = "99";
  holder.cluster = "big";
  holder.restart_count = 1;
  leave(holder);
  setenv("SLURM_JOB_ID", "99", 1);
  setenv("SLURM_CLUSTER_NAME", "big", 1);
  setenv("SLURM_RESTART_COUNT", "1", 1);
  EXPECT_FALSE(gone_because(holder, LockHolder::this_process())) << "two steps of one attempt";
  setenv("SLURM_RESTART_COUNT", "2", 1);
  EXPECT_EQ(refusal(directory_.path(), kNever), "");
  setenv("SLURM_CLUSTER_NAME", "small", 1);
  EXPECT_FALSE(gone_because(holder, LockHolder::this_process()))
      << "another cluster's job of the same number";
  EXPECT_THAT(holder.who(), HasSubstr("Slurm job 99, restart 1"));
}

TEST_F(JobLockTest, ADamagedLockIsFollowedAfterThePatience) {
  for (const char* text : {"", "{", "[1]", "{\"token\": 5}"}) {
    write_file(lock_, text);
    EXPECT_EQ(refusal(directory_.path(), kImpatient), "") << text;
    EXPECT_EQ(files_in(directory_.path()), 0u) << text;
  }
}

TEST_F(JobLockTest, AJobThatLostItsLockNoticesAndTouchesNothing) {
  const LockHolder other = elsewhere();
  {
    const JobLock lock(directory_.path(), kQuick);
    leave(other);
    try {
      lock.require_held();
      FAIL() << "did not notice";
    } catch (const IoError& error) {
      EXPECT_THAT(error.what(), HasSubstr("far-away"));
    }
    std::this_thread::sleep_for(milliseconds(50));  // some heartbeats
  }
  EXPECT_EQ(read_text_file(lock_), to_json(other));
  const fs::path second = fs::path(directory_.path()) / "second";
  const JobLock removed(second, kQuick);
  fs::remove(second / kLockFile);
  EXPECT_THROW(removed.require_held(), IoError);
}

/// Starts `jobs` processes that want the lock at once; how many got it. Each winner holds it until all have
/// an answer.
int winners(const fs::path& directory, int jobs) {
  int start[2], answers[2], end[2];
  EXPECT_EQ(pipe(start) + pipe(answers) + pipe(end), 0);
  std::vector<pid_t> children;
  for (int job = 0; job < jobs; ++job) {
    children.push_back(fork());
    if (children.back() != 0) continue;
    alarm(60);
    close(start[1]);
    close(end[1]);
    char byte = 0;
    if (read(start[0], &byte, 1) != 0) _exit(1);
    try {
      const JobLock lock(directory, kQuick);
      if (write(answers[1], "W", 1) != 1 || read(end[0], &byte, 1) != 0) _exit(1);
    } catch (const IoError&) {
      if (write(answers[1], "R", 1) != 1) _exit(1);
    }
    _exit(0);
  }
  close(start[1]);
  close(answers[1]);
  int won = 0;
  char answer = 0;
  for (int job = 0; job < jobs && read(answers[0], &answer, 1) == 1; ++job) won += answer == 'W';
  close(end[1]);
  for (pid_t child : children) waitpid(child, nullptr, 0);
  for (int descriptor : {start[0], answers[0], end[0]}) close(descriptor);
  return won;
}

LockHolder dead_process() {
  LockHolder holder = LockHolder::this_process();
  holder.process_start -= 1;
  return holder;
}

TEST_F(JobLockTest, OneOfManyWinsAFreeDirectory) {
  for (int round = 0; round < 10; ++round) EXPECT_EQ(winners(directory_.path(), 6), 1) << round;
}

TEST_F(JobLockTest, OneOfManyFollowsADeadJob) {
  for (int round = 0; round < 20; ++round) {
    leave(dead_process());
    EXPECT_EQ(winners(directory_.path(), 6), 1) << round;
    EXPECT_EQ(files_in(directory_.path()), 0u) << round;
  }
}

TEST_F(JobLockTest, OneOfManyFollowsAJobThatDiedWhileTakingOver) {
  for (int round = 0; round < 10; ++round) {
    const LockHolder first = dead_process();
    const LockHolder claimant = dead_process();
    leave(first);
    write_file(lock_.string() + ".after-" + first.token, to_json(claimant));
    EXPECT_EQ(winners(directory_.path(), 6), 1) << round;
    EXPECT_EQ(files_in(directory_.path()), 0u) << round;
  }
}

}  // namespace
}  // namespace gptq
