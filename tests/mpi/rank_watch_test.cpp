// A rank that does not come to a collective is named by the others, in bounded time; one that is only late is
// not.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "comm/mpi_communicator.h"
#include "mpi_world.h"
#include "waiting_ranks.h"

namespace gptq::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

/// Ranks have as long to answer as in a real job: on a busy machine they need some of it.
constexpr RankWatch::Timing kQuick{0.5, 2, 0.6};

struct Outcome {
  std::string error;
  double seconds = 0;
};

/// Runs `action` on all ranks but `missing`, which comes to it when all others have given up: that lets MPI
/// finish what they began; their values must live as long.
Outcome meet_without(MpiCommunicator& comm, int missing, const std::function<void()>& action) {
  if (comm.rank() == missing) {
    wait_for_the_others(missing);
    comm.set_timeout(kLong);
    action();
    return {};
  }
  Outcome outcome;
  const Stopwatch waited;
  try {
    action();
  } catch (const CommError& error) {
    outcome = {error.what(), waited.seconds()};
  }
  wait_for_the_others(missing);
  return outcome;
}

Outcome sum_without(MpiCommunicator& comm, int missing, std::vector<std::int64_t>& values) {
  // Who comes later than the root is late himself when the root calls the roll, but answers.
  if (!comm.is_root() && comm.rank() != missing) sleep_for(0.3);
  return meet_without(comm, missing, [&] { comm.all_reduce_sum(values); });
}

TEST(RankWatch, ARankThatHangsIsNamedAndTheOthersAreNot) {
  if (world().size() < 2) GTEST_SKIP() << "needs two ranks";
  const int missing = world().size() - 1;
  const auto ids = process_ids();
  MpiCommunicator comm(MPI_COMM_WORLD, kQuick);
  std::vector<std::int64_t> values(4, 1);
  const Outcome outcome = sum_without(comm, missing, values);
  if (comm.is_root()) {
    const std::string pid = std::to_string(ids.back());
    EXPECT_THAT(outcome.error, AllOf(HasSubstr(rank_text(missing) + pid + " on "), HasSubstr("#1 (sum)"),
                                     HasSubstr("comm.timeout")));
    for (int rank = 0; rank < missing; ++rank) EXPECT_THAT(outcome.error, Not(HasSubstr(rank_text(rank))));
    EXPECT_GE(outcome.seconds, kQuick.timeout);
  } else if (comm.rank() != missing) {
    EXPECT_THAT(outcome.error, HasSubstr("looked for the ranks that hang"))
        << "the root should have ended the job";
  }
  world().barrier();
}

TEST(RankWatch, ARootThatHangsIsNamedByTheOthers) {
  if (world().size() < 2) GTEST_SKIP() << "needs two ranks";
  MpiCommunicator comm(MPI_COMM_WORLD, kQuick);
  std::vector<std::int64_t> values(4, 1);
  const Outcome outcome = sum_without(comm, 0, values);
  if (!comm.is_root()) {
    EXPECT_THAT(outcome.error, AllOf(HasSubstr(rank_text(0)), HasSubstr("did not come")));
    EXPECT_GE(outcome.seconds, kQuick.timeout + kQuick.roll_call) << "it had no time to answer";
  }
  world().barrier();
}

TEST(RankWatch, EveryCollectiveIsWatched) {
  if (world().size() < 2) GTEST_SKIP() << "needs two ranks";
  // All wait in each of them for a rank that does not come, on communicators of their own.
  const int missing = world().size() - 1;
  const RankWatch::Timing timing{0.1, 0.1, 0.1};
  static std::int64_t number = 0;
  static float magnitude = 0;
  static std::vector<std::byte> large(1 << 20);
  const std::vector<std::span<const std::byte>> nothing(static_cast<std::size_t>(world().size()));
  const std::vector<std::function<void(MpiCommunicator&)>> collectives = {
      [](MpiCommunicator& comm) { comm.barrier(); },
      [&](MpiCommunicator& comm) { comm.broadcast(&number, sizeof(number), missing); },
      [](MpiCommunicator& comm) { comm.all_reduce_max(std::span<float>(&magnitude, 1)); },
      [](MpiCommunicator& comm) { comm.all_reduce_max(std::span<std::int64_t>(&number, 1)); },
      [](MpiCommunicator& comm) { comm.begin_max(std::span<std::int64_t>(&number, 1))->wait(); },
      [](MpiCommunicator& comm) { comm.all_gather({}); },
      [&](MpiCommunicator& comm) { comm.scatter(nothing, missing); },
      [&](MpiCommunicator& comm) { comm.all_to_all(nothing); },
      [&](MpiCommunicator& comm) {
        // The others give up in the meeting before the message.
        comm.rank() == missing ? comm.barrier() : comm.broadcast(large.data(), large.size(), missing);
      },
      [&](MpiCommunicator& comm) {
        if (comm.rank() != missing) return comm.receive({}, missing, 0)->wait();
        for (int rank = 0; rank < missing; ++rank) comm.send({}, rank, 0)->wait();
      },
  };
  for (const auto& collective : collectives) {
    SCOPED_TRACE(&collective - collectives.data());
    MpiCommunicator comm(MPI_COMM_WORLD, timing);
    const Outcome outcome = meet_without(comm, missing, [&] { collective(comm); });
    if (comm.rank() != missing) {
      EXPECT_NE(outcome.error, "");
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
  comm.set_timeout(kLong);
  if (comm.rank() == comm.size() - 1) sleep_for(kQuick.timeout + kQuick.roll_call + 0.2);
  std::vector<std::int64_t> values{1};
  comm.all_reduce_sum(values);
  EXPECT_EQ(values[0], comm.size());
}

}  // namespace
}  // namespace gptq::test
