// Ranks that work for long while others wait: who attends is waited for, who does not is named, and only
// those who wait for a rank are troubled by it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "comm/mpi_communicator.h"
#include "mpi_world.h"
#include "waiting_ranks.h"

namespace gptq::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr RankWatch::Timing kQuick{1.2, 0.5, 1.0};
/// Longer than it takes to find a rank that does not attend.
constexpr double kWork = 4;

void check_that_busy_ranks_are_waited_for(bool expected, double attend_every) {
  MpiCommunicator comm(MPI_COMM_WORLD, kQuick);
  if (expected) comm.expect_busy_ranks();
  for (const int busy : {comm.size() - 1, 0}) {
    SCOPED_TRACE(testing::Message() << "rank " << busy << " is busy, expected: " << expected);
    const Stopwatch waited;
    if (comm.rank() == busy) work_for(kWork, comm, attend_every);
    std::vector<std::int64_t> ones{1};
    EXPECT_EQ(error_of([&] { comm.all_reduce_sum(ones); }), "");
    EXPECT_EQ(ones[0], comm.size());
    EXPECT_GE(waited.seconds(), kWork - 0.5) << "nobody was busy";
    world().barrier();
  }
  if (comm.size() > 1) {
    EXPECT_GE(comm.waited_seconds(), kWork - 0.5);
  }
}

TEST(BusyRanks, WhoAttendsIsWaitedFor) {
  check_that_busy_ranks_are_waited_for(true, 0.005);
}

TEST(BusyRanks, WhoAttendsIsWaitedForWhereNobodyExpectsIt) {
  check_that_busy_ranks_are_waited_for(false, 0.005);
}

TEST(BusyRanks, AFirstRankThatAttendsNowAndThenIsWaitedForAndSettlesItsRollCalls) {
  check_that_busy_ranks_are_waited_for(true, 0.3);
  if (world().size() < 2) return;
  // The first rank of the team is busy elsewhere, and finds for the others that the last one hangs.
  const int missing = world().size() - 1;
  MpiCommunicator comm(MPI_COMM_WORLD, kQuick);
  comm.expect_busy_ranks();
  const auto team = comm.split(0);
  std::vector<std::int64_t> ones{1};
  std::string error;
  if (comm.rank() != missing) {
    error =
        error_of([&] { comm.is_root() && comm.size() > 2 ? work_for(kLong, comm, 0.3) : team->barrier(); });
  }
  wait_for_the_others(missing);
  if (comm.is_root()) {
    EXPECT_THAT(error, HasSubstr(rank_text(missing)));
  }
  if (comm.rank() == missing || (comm.is_root() && comm.size() > 2)) {
    comm.set_timeout(kLong);
    team->barrier();
  }
  world().barrier();
}

TEST(BusyRanks, WhoDoesNotAttendIsNamed) {
  if (world().size() < 2) GTEST_SKIP() << "needs two ranks";
  const int missing = world().size() - 1;
  MpiCommunicator comm(MPI_COMM_WORLD, kQuick);
  comm.expect_busy_ranks();
  std::vector<std::int64_t> ones{1};
  std::string error;
  const Stopwatch waited;
  if (comm.rank() != missing) error = error_of([&] { comm.all_reduce_sum(ones); });
  const double seconds = waited.seconds();
  wait_for_the_others(missing);
  if (comm.rank() == missing) {
    comm.set_timeout(kLong);
    comm.all_reduce_sum(ones);  // MPI has to finish what the others began
  } else if (comm.is_root()) {
    EXPECT_THAT(error, AllOf(HasSubstr(rank_text(missing)), HasSubstr("#1 (sum)")));
    EXPECT_GE(seconds, kQuick.timeout) << "it had no time to answer";  // another may have called before
  } else {
    EXPECT_THAT(error, HasSubstr("looked for the ranks that hang"));
    EXPECT_GE(seconds, 3 * kQuick.timeout) << "the first rank had no time to find it";
  }
  world().barrier();
}

TEST(BusyRanks, OnlyTheTeamOfAHangingRankIsTroubled) {
  if (world().size() < 3) GTEST_SKIP() << "needs three ranks";
  const int missing = world().size() - 1;
  MpiCommunicator comm(MPI_COMM_WORLD, kQuick);
  comm.expect_busy_ranks();
  // The last two are a team, the others another one.
  const bool troubled = comm.rank() >= comm.size() - 2;
  const auto team = comm.split(troubled ? 1 : 0);
  std::vector<std::int64_t> ones{1};
  if (!troubled) {
    const Stopwatch working;
    std::int64_t goes_on = 1;
    while (goes_on != 0) {
      // One clock decides: a team whose ranks disagree about the end waits for ever.
      goes_on = working.seconds() < 2 * kQuick.timeout + kQuick.grace ? 1 : 0;
      EXPECT_EQ(error_of([&] { team->broadcast(&goes_on, sizeof(goes_on), 0); }), "");
      work_for(0.1, *team, 0.005);
    }
  } else if (comm.rank() != missing) {
    const std::string error = error_of([&] { team->all_reduce_sum(ones); });
    EXPECT_THAT(error, HasSubstr(rank_text(missing)));
    for (int rank = 0; rank < missing; ++rank) EXPECT_THAT(error, Not(HasSubstr(rank_text(rank))));
  }
  wait_for_the_others(missing);
  if (comm.rank() == missing) {
    comm.set_timeout(kLong);
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
    work_for(kWork, comm, 0.005);
    comm.send({&sent, 1}, 0, 0)->wait();
  } else if (comm.rank() == 0) {
    EXPECT_EQ(error_of([&] { comm.receive({&received, 1}, sender, 0)->wait(); }), "");
    EXPECT_EQ(received, sent);
    const std::string error = error_of([&] { comm.receive({&never, 1}, sender, 0)->wait(); });
    EXPECT_THAT(error, AllOf(HasSubstr(rank_text(sender)), HasSubstr("a message (receive)")));
    for (int rank = 0; rank < sender; ++rank) EXPECT_THAT(error, Not(HasSubstr(rank_text(rank))));
  }
  wait_for_the_others(sender);
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

/// What each rank's error is, on all of them.
std::vector<std::string> errors_of_all(const std::string& error) {
  std::vector<std::string> errors;
  for (const auto& bytes : world().all_gather(std::as_bytes(std::span(error))))
    errors.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return errors;
}

TEST(BusyRanks, AnEndlessCircleOfMessagesIsFound) {
  if (world().size() < 2) GTEST_SKIP() << "needs two ranks";
  MpiCommunicator comm(MPI_COMM_WORLD, {1, 0.5, 5});
  comm.expect_busy_ranks();
  std::byte never{};
  const int next = (comm.rank() + 1) % comm.size();
  const std::string error = error_of([&] { comm.receive({&never, 1}, next, 0)->wait(); });
  const auto errors = errors_of_all(error);
  EXPECT_THAT(errors,
              testing::Contains(AllOf(HasSubstr("have waited for each other"), HasSubstr("receive"))));
  EXPECT_THAT(errors, testing::Each(testing::Ne("")));
}

TEST(BusyRanks, AnEndlessCircleOverATeamAndAMessageIsFound) {
  if (world().size() < 2) GTEST_SKIP() << "needs two ranks";
  MpiCommunicator comm(MPI_COMM_WORLD, {1, 0.5, 5});
  comm.expect_busy_ranks();
  const auto team = comm.split(comm.rank() < 2 ? 0 : 1);
  // Rank 0 waits in the team for rank 1, which waits for a word of rank 0; the others wait for both.
  std::byte never{};
  const std::string error = error_of([&] {
    if (comm.rank() == 0) team->barrier();
    if (comm.rank() == 1) comm.receive({&never, 1}, 0, 0)->wait();
    if (comm.rank() >= 2) comm.barrier();
  });
  const auto errors = errors_of_all(error);
  EXPECT_THAT(errors,
              testing::Contains(AllOf(HasSubstr("have waited for each other"), HasSubstr("barrier #"))));
  EXPECT_THAT(errors, testing::Each(testing::Ne("")));
  comm.set_timeout(kLong);
  if (comm.rank() == 1) team->barrier();
  if (comm.rank() < 2) comm.barrier();
  world().barrier();
}

TEST(BusyRanks, RanksThatWaitForOneThatIsBusyAreNoCircle) {
  if (world().size() < 3) GTEST_SKIP() << "needs three ranks";
  MpiCommunicator comm(MPI_COMM_WORLD, {1, 0.5, 5});
  comm.expect_busy_ranks();
  const auto team = comm.split(comm.rank() < 2 ? 0 : 1);
  // Rank 0 waits in the team for rank 1, which waits for a word of the last rank.
  std::byte word{};
  const std::string error = error_of([&] {
    if (comm.rank() == 1) comm.receive({&word, 1}, comm.size() - 1, 0)->wait();
    if (comm.rank() < 2) team->barrier();
    if (comm.rank() < comm.size() - 1) return;
    work_for(kWork, comm, 0.005);
    comm.send({&word, 1}, 1, 0)->wait();
  });
  EXPECT_THAT(errors_of_all(error), testing::Each(testing::Eq("")));
}

}  // namespace
}  // namespace gptq::test
