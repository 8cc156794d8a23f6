// Signals that ask for a stop. Each test works in a child process, as a request can never be taken back.
#include "base/stop_request.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <thread>

namespace gptq {
namespace {

/// Wait status of a child that runs `body` and exits with its value.
int status_of(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(10);  // a child that waits for ever fails its test instead of hanging it
    _exit(body());
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return status;
}

class StopRequest : public testing::TestWithParam<int> {};

TEST_P(StopRequest, TheFirstSignalOnlyAsks) {
  const int status = status_of([] {
    catch_stop_signals();
    if (stop_requested() != 0) return 1;
    raise(GetParam());
    return stop_requested() == GetParam() ? 42 : 2;
  });
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 42);
}

TEST_P(StopRequest, TheSecondEndsTheProcessByThatSignal) {
  for (int first : {SIGTERM, SIGINT, SIGUSR1}) {
    const int status = status_of([&] {
      catch_stop_signals();
      raise(first);
      raise(GetParam());
      return 0;
    });
    ASSERT_TRUE(WIFSIGNALED(status)) << signal_name(first) << " then " << signal_name(GetParam());
    EXPECT_EQ(WTERMSIG(status), GetParam());
  }
}

TEST_P(StopRequest, WorksWhereTheParentIgnoredOrBlockedIt) {
  const int status = status_of([] {
    signal(GetParam(), SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, GetParam());
    sigprocmask(SIG_BLOCK, &set, nullptr);
    catch_stop_signals();
    raise(GetParam());
    return stop_requested() == GetParam() ? 42 : 2;
  });
  EXPECT_EQ(WEXITSTATUS(status), 42);
}

INSTANTIATE_TEST_SUITE_P(Signals, StopRequest, testing::Values(SIGTERM, SIGINT, SIGUSR1),
                         [](const auto& tested) { return std::string(signal_name(tested.param)); });

TEST(StopRequestThreads, ASystemCallUnderWayGoesOn) {
  const int status = status_of([] {
    catch_stop_signals();
    int ends[2];
    if (pipe(ends) != 0) return 1;
    const pid_t self = getpid();
    std::thread other([&] {
      // The reader waits in read() by now, and must not see the signal as an error.
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      kill(self, SIGUSR1);
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      if (write(ends[1], "x", 1) != 1) _exit(3);
    });
    char byte = 0;
    const bool read_on = read(ends[0], &byte, 1) == 1 && byte == 'x';
    other.join();
    return read_on && stop_requested() == SIGUSR1 ? 42 : 2;
  });
  EXPECT_EQ(WEXITSTATUS(status), 42);
}

TEST(StopRequestThreads, NoSignalNoRequest) {
  EXPECT_EQ(stop_requested(), 0);
}

}  // namespace
}  // namespace gptq
