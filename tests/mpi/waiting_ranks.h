#pragma once

#include <unistd.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "mpi_world.h"

/// What tests of ranks that wait for each other have in common.
namespace gptq::test {

/// Seconds: nothing in these tests takes so long, on whatever machine.
constexpr double kLong = 60;

inline void sleep_for(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

/// Works for others: attends as often as said, or never (0).
inline void work_for(double seconds, Communicator& comm, double attend_every) {
  const Stopwatch working;
  while (working.seconds() < seconds) {
    sleep_for(attend_every > 0 ? attend_every : 0.005);
    if (attend_every > 0) comm.attend();
  }
}

/// The beginning of a rank's name in messages.
inline std::string rank_text(int rank) {
  return "rank " + std::to_string(rank) + " (process ";
}

/// The message of the CommError that it ends with; empty: none.
inline std::string error_of(const std::function<void()>& action) {
  try {
    action();
    return "";
  } catch (const CommError& error) {
    return error.what();
  }
}

/// The others say that they are there; `waiting` only listens to them, so it is silent to the roll calls of
/// any communicator but world(). By this and not by the clock a rank stays away: that holds on a busy
/// machine.
inline void wait_for_the_others(int waiting) {
  std::byte word{};
  if (world().rank() != waiting) {
    world().send({&word, 1}, waiting, 0)->wait();
    return;
  }
  for (int rank = 0; rank < world().size(); ++rank)
    if (rank != waiting) world().receive({&word, 1}, rank, 0)->wait();
}

/// Process ids of all ranks.
inline std::vector<std::int64_t> process_ids() {
  std::vector<std::int64_t> ids(static_cast<std::size_t>(world().size()));
  ids[static_cast<std::size_t>(world().rank())] = getpid();
  world().all_reduce_max(std::span<std::int64_t>(ids));
  return ids;
}

}  // namespace gptq::test
