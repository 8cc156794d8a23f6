#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <thread>

#include "base/error.h"
#include "job_fixture.h"
#include "support/places.h"

namespace gptq::test {

namespace fs = std::filesystem;

inline constexpr int kComeBack = static_cast<int>(ExitCode::come_back);

class Resume : public JobTest {
 protected:
  /// Starts the job with a checkpoint at every safe point, sends the signal when this generation
  /// is complete, and returns how the process ended: its exit code, or 128 + the signal that killed it.
  int interrupt(int generation, int signal, const std::vector<std::string>& more = {}) {
    return disturb(
        generation, [signal](pid_t job) { kill(job, signal); }, more);
  }

  int disturb(int generation, const std::function<void(pid_t)>& blow,
              const std::vector<std::string>& more = {}) {
    std::vector<std::string> words{program(), "quantize", job(), "--set", "checkpoint.interval=0"};
    words.insert(words.end(), more.begin(), more.end());
    if (ranks_ > 1) {
      const std::vector<std::string> launcher{"mpirun", "--oversubscribe",     "--bind-to", "none",
                                              "-n",     std::to_string(ranks_)};
      words.insert(words.begin(), launcher.begin(), launcher.end());
    }
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      for (const char* one : {"OMP_NUM_THREADS", "OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"})
        setenv(one, "1", 1);
      const std::string log = path("interrupted.log");
      if (freopen(log.c_str(), "w", stderr) == nullptr || freopen(log.c_str(), "a", stdout) == nullptr)
        _exit(126);
      execvp(arguments[0], arguments.data());
      _exit(127);
    }
    const fs::path awaited =
        fs::path(path("output")) / "checkpoint" / fmt::format("gen-{:06}.json", generation);
    int status = 0;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!fs::exists(awaited) && waitpid(child, &status, WNOHANG) == 0 &&
           std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_TRUE(fs::exists(awaited)) << "the job ended before generation " << generation;
    blow(child);
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  fs::path checkpoint() const { return fs::path(path("output")) / "checkpoint"; }

  int ranks_ = 1;  ///< of the job that is interrupted; more need a signal that the launcher passes on
};

}  // namespace gptq::test
