// Ranks that work for long while others wait: who attends is waited for, who does not is named, and only
// those who wait for a rank are troubled by it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
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

constexpr RankWatch::Timing kQuick{1.2, 0.5, 1.0};
/// Longer than it takes to find a rank that does not attend: that is twice the timeout, and grace.
constexpr double kLong = 4;
constexpr double kFound = 2 * kQuick.timeout + kQuick.grace + 1;

void work_for(double seconds, Communicator& comm, bool attends) {
  const Stopwatch working;
  while (working.seconds() < seconds) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    if (attends) comm.attend();
  }
}

std::string rank_text(int rank) {
  return "rank " + std::to_string(rank) + " (process ";
}

/// The message of the CommError that it ends with; empty: none.
std::string error_of(const std::function<void()>& action) {
  try {
    action();
    return "";
  } catch (const CommError& error) {
    return error.what();
  }
}

TEST(BusyRanks, WhoAttendsIsWaitedFor) {
  for (const bool expected : {true, false}) {
    MpiCommunicator comm(MPI_COMM_WORLD, kQuick);
    if (expected) comm.expect_busy_ranks();
    for (const int busy :
         expected ? std::vector<int>{comm.size() - 1, 0} : std::vector<int>{comm.size() - 1}) {
      const Stopwatch waited;
      if (comm.rank() == busy) work_for(kLong, comm, true);
      std::vector<std::int64_t> ones{1};
      EXPECT_EQ(error_of([&] { comm.all_reduce_sum(ones); }), "");
      EXPECT_EQ(ones[0], comm.size());
      EXPECT_GE(waited.seconds(), kLong - 0.5) << "nobody was busy";
    }
    if (comm.size() > 1 && (expected || comm.is_root())) {
      EXPECT_GE(comm.waited_seconds(), kLong - 0.5);
    }
  }
}

TEST(BusyRanks, WhoDoesNotAttendIsNamed) {
  if (world().size() < 2) GTEST_SKIP() << "needs two ranks";
  const int missing = world().size() - 1;
  MpiCommunicator comm(MPI_COMM_WORLD, kQuick);
  comm.expect_busy_ranks();
  std::vector<std::int64_t> ones{1};
  if (comm.rank() == missing) {
    work_for(2 * kLong, comm, false);
    comm.set_timeout(60);
    comm.all_reduce_sum(ones);  // MPI has to finish what the others began
  } else {
    const Stopwatch waited;
    const std::string error = error_of([&] { comm.all_reduce_sum(ones); });
    if (comm.is_root()) {
      EXPECT_THAT(error, AllOf(HasSubstr(rank_text(missing)), HasSubstr("#1 (sum)")));
      EXPECT_GE(waited.seconds(), 2 * kQuick.timeout) << "it had no time to answer";
      EXPECT_LT(waited.seconds(), kFound);
    } else {
      EXPECT_THAT(error, HasSubstr("looked for the ranks that hang"));
    }
  }
  world().barrier();
}

TEST(BusyRanks, OnlyTheTeamOfAHangingRankIsTroubled) {
  if (world().size() < 3) GTEST_SKIP() << "needs three ranks";
  const int missing = world().size() - 1;
  MpiCommunicator comm(MPI_COMM_WORLD, kQuick);
  comm.expect_busy_ranks();
  // The first rank is in a team of its own, or with the second.
  const bool troubled = comm.rank() >= comm.size() - 2;
  const auto team = comm.split(troubled ? 1 : 0);
  std::vector<std::int64_t> ones{1};
  if (!troubled) {
    const Stopwatch working;
    while (working.seconds() < kFound) {
      EXPECT_EQ(error_of([&] { team->barrier(); }), "");
      work_for(0.1, *team, true);
    }
  } else if (comm.rank() != missing) {
    const std::string error = error_of([&] { team->all_reduce_sum(ones); });
    EXPECT_THAT(error, HasSubstr(rank_text(missing)));
    for (int rank = 0; rank < missing; ++rank) EXPECT_THAT(error, Not(HasSubstr(rank_text(rank))));
  } else {
    work_for(2 * kLong, comm, false);
    comm.set_timeout(60);
    team->all_reduce_sum(ones);
  }
  world().barrier();
}

TEST(BusyRanks, AMessageIsWaitedForWhileItsSenderAttends) {
  if (world().size() < 2) GTEST_SKIP() << "needs two ranks";
  const int sender = world().size() - 1;
  MpiCommunicator comm(MPI_COMM_WORLD, kQuick);
  comm.expect_busy_ranks();
  std::byte sent{42}, received{0}, never{0};
  if (comm.rank() == sender) {
    work_for(kLong, comm, true);
    comm.send({&sent, 1}, 0, 0)->wait();
    work_for(kLong, comm, false);
  } else if (comm.rank() == 0) {
    EXPECT_EQ(error_of([&] { comm.receive({&received, 1}, sender, 0)->wait(); }), "");
    EXPECT_EQ(received, sent);
    const Stopwatch waited;
    const std::string error = error_of([&] { comm.receive({&never, 1}, sender, 0)->wait(); });
    EXPECT_THAT(error, AllOf(HasSubstr(rank_text(sender)), HasSubstr("a message (receive)")));
    for (int rank = 0; rank < sender; ++rank) EXPECT_THAT(error, Not(HasSubstr(rank_text(rank))));
    EXPECT_LT(waited.seconds(), kFound);
  }
  world().barrier();
}

TEST(BusyRanks, RanksThatWaitForEachOtherForEverAreFound) {
  MpiCommunicator comm(MPI_COMM_WORLD, kQuick);
  const Stopwatch waited;
  const std::string error =
      error_of([&] { comm.wait_outside("nothing", [&] { return std::optional(waited.seconds()); }); });
  if (comm.is_root()) {
    EXPECT_THAT(error, AllOf(HasSubstr("have waited for each other"), HasSubstr("nothing #1")));
  } else {
    EXPECT_NE(error, "");
  }
  world().barrier();
}

}  // namespace
}  // namespace gptq::test
