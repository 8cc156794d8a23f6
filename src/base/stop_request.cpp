#include "base/stop_request.h"

#include <csignal>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace gptq {
namespace {

constexpr std::array<int, 3> kStopSignals{SIGTERM, SIGINT, SIGUSR1};

std::atomic<int> first_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may not take locks");

/// Only async-signal-safe calls from here on.
void die_of(int signal) {
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  sigemptyset(&standard.sa_mask);
  sigaction(signal, &standard, nullptr);
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, signal);
  pthread_sigmask(SIG_UNBLOCK, &only, nullptr);  // it is blocked while its handler runs
  raise(signal);
}

extern "C" void on_stop_signal(int signal) {
  const int saved = errno;
  int none = 0;
  if (!first_signal.compare_exchange_strong(none, signal)) die_of(signal);
  errno = saved;
}

}  // namespace

void catch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;  // reads and writes under way go on: the job ends at a safe point, not here
  sigemptyset(&action.sa_mask);
  for (int signal : kStopSignals) sigaddset(&action.sa_mask, signal);
  // Also where a shell started us with the signal ignored (scripts do that to SIGINT of `command &`): who
  // sends it to a batch job means it.
  for (int signal : kStopSignals) {
    if (sigaction(signal, &action, nullptr) != 0) {
      throw Error(ExitCode::internal,
                  fmt::format("cannot catch {}: {}", signal_name(signal), std::strerror(errno)));
    }
  }
  // A launcher may have blocked them; a blocked signal would never reach us.
  sigset_t blocked = action.sa_mask;
  pthread_sigmask(SIG_UNBLOCK, &blocked, nullptr);
}

int stop_requested() {
  return first_signal.load(std::memory_order_relaxed);
}

const char* signal_name(int signal) {
  switch (signal) {
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGUSR1:
      return "SIGUSR1";
    default:
      return "an unknown signal";
  }
}

}  // namespace gptq
