// A rank that does not come to a collective is named by the others, in bounded time; one that is only late is
// not.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "comm/mpi_communicator.h"
#include "mpi_world.h"

namespace gptq::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr RankWatch::Timing kQuick{0.5, 0.5, 0.6};
constexpr double kBound = kQuick.timeout + kQuick.roll_call + kQuick.grace;

void sleep_for(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

std::string rank_text(int rank) {
  return "rank " + std::to_string(rank) + " (process ";
}

struct Outcome {
  std::string error;
  double seconds = 0;
};

/// One collective to which `missing` comes only when all others have given up. Coming at all lets MPI finish
/// what the others began; their values must live as long.
Outcome meet_without(MpiCommunicator& comm, int missing, std::vector<std::int64_t>& values) {
  if (comm.rank() == missing) {
    sleep_for(kBound + 1);
    comm.set_timeout(60);
    comm.all_reduce_sum(values);
    return {};
  }
  // Who comes later than the root is late himself when the root calls the roll, but answers.
  if (!comm.is_root()) sleep_for(0.3);
  const Stopwatch waited;
  try {
    comm.all_reduce_sum(values);
    return {"", waited.seconds()};
  } catch (const CommError& error) {
    return {error.what(), waited.seconds()};
  }
}

/// Process ids of all ranks.
std::vector<std::int64_t> process_ids() {
  std::vector<std::int64_t> ids(static_cast<std::size_t>(world().size()));
  ids[static_cast<std::size_t>(world().rank())] = getpid();
  world().all_reduce_max(std::span<std::int64_t>(ids));
  return ids;
}

TEST(RankWatch, ARankThatHangsIsNamedAndTheOthersAreNot) {
  if (world().size() < 2) GTEST_SKIP() << "needs two ranks";
  const int missing = world().size() - 1;
  const auto ids = process_ids();
  MpiCommunicator comm(MPI_COMM_WORLD, kQuick);
  std::vector<std::int64_t> values(4, 1);
  const Outcome outcome = meet_without(comm, missing, values);
  if (comm.is_root()) {
    const std::string pid = std::to_string(ids.back());
    EXPECT_THAT(outcome.error, AllOf(HasSubstr(rank_text(missing) + pid + " on "), HasSubstr("#1 (sum)"),
                                     HasSubstr("comm.timeout")));
    for (int rank = 0; rank < missing; ++rank) EXPECT_THAT(outcome.error, Not(HasSubstr(rank_text(rank))));
    EXPECT_GE(outcome.seconds, kQuick.timeout);
    EXPECT_LT(outcome.seconds, kQuick.timeout + kQuick.roll_call + 1);
  } else if (comm.rank() != missing) {
    EXPECT_THAT(outcome.error, HasSubstr("looked for the ranks that hang"))
        << "the root should have ended the job";
    EXPECT_LT(outcome.seconds, kBound + 1);
  }
  world().barrier();
}

TEST(RankWatch, ARootThatHangsIsNamedByTheOthers) {
  if (world().size() < 2) GTEST_SKIP() << "needs two ranks";
  MpiCommunicator comm(MPI_COMM_WORLD, kQuick);
  std::vector<std::int64_t> values(4, 1);
  const Outcome outcome = meet_without(comm, 0, values);
  if (!comm.is_root()) {
    EXPECT_THAT(outcome.error, AllOf(HasSubstr(rank_text(0)), HasSubstr("did not come")));
    EXPECT_GE(outcome.seconds, kQuick.timeout);
    EXPECT_LT(outcome.seconds, kBound + 1);
  }
  world().barrier();
}

TEST(RankWatch, EveryCollectiveIsWatched) {
  if (world().size() < 2) GTEST_SKIP() << "needs two ranks";
  // The root waits in each of them at once, on communicators of their own, for a rank that does not come.
  const int missing = world().size() - 1;
  const RankWatch::Timing timing{0.1, 0.1, 0.1};
  static std::int64_t number = 0;
  static float magnitude = 0;
  std::vector<std::byte> large(1 << 20);
  std::vector<std::function<void(MpiCommunicator&)>> collectives = {
      [](MpiCommunicator& comm) { comm.barrier(); },
      [](MpiCommunicator& comm) { comm.broadcast(&number, sizeof(number), comm.size() - 1); },
      [&](MpiCommunicator& comm) { comm.broadcast(large.data(), large.size(), comm.size() - 1); },
      [](MpiCommunicator& comm) { comm.all_reduce_max(std::span<float>(&magnitude, 1)); },
      [](MpiCommunicator& comm) { comm.all_reduce_max(std::span<std::int64_t>(&number, 1)); },
  };
  for (const auto& collective : collectives) {
    MpiCommunicator comm(MPI_COMM_WORLD, timing);
    if (comm.rank() == missing) {
      sleep_for(0.5);
      comm.set_timeout(60);
    }
    if (comm.rank() != missing) {
      EXPECT_THROW(collective(comm), CommError);
    } else if (&collective != &collectives[2]) {
      collective(comm);
    } else {
      comm.barrier();  // the others gave up in the meeting before the message
    }
    world().barrier();
  }
}

TEST(RankWatch, ARankThatIsLateButInTimeIsNoError) {
  MpiCommunicator comm(MPI_COMM_WORLD, kQuick);
  for (int late = 0; late < comm.size(); ++late) {
    if (comm.rank() == late) sleep_for(0.3);
    std::vector<std::int64_t> values{comm.rank()};
    comm.all_reduce_sum(values);
    EXPECT_EQ(values[0], comm.size() * (comm.size() - 1) / 2);
  }
}

TEST(RankWatch, ALongerTimeoutHolds) {
  MpiCommunicator comm(MPI_COMM_WORLD, kQuick);
  comm.set_timeout(20);
  if (comm.rank() == comm.size() - 1) sleep_for(kQuick.timeout + kQuick.roll_call + 0.2);
  std::vector<std::int64_t> values{1};
  comm.all_reduce_sum(values);
  EXPECT_EQ(values[0], comm.size());
}

}  // namespace
}  // namespace gptq::test
