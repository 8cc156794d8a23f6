// Healthy ranks that look as if they hung: nobody may be named.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <memory>
#include <optional>

#include "comm/mpi_communicator.h"
#include "mpi_world.h"
#include "waiting_ranks.h"

namespace gptq::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// A collective in which a rank waits for others for so many seconds.
void wait_outside_for(Communicator& comm, double seconds) {
  const Stopwatch waited;
  comm.wait_outside("work", [&]() -> std::optional<double> {
    if (waited.seconds() >= seconds) return std::nullopt;
    return waited.seconds();
  });
}

class FalseAlarms : public testing::Test {
 protected:
  void SetUp() override {
    if (world().size() < 2) GTEST_SKIP() << "needs two ranks";
  }
  void TearDown() override { world().barrier(); }

  int last_ = world().size() - 1;
  std::vector<std::int64_t> ones_{1};
};

TEST_F(FalseAlarms, AStaleReportEndsNoHealthyJob) {
  MpiCommunicator comm(MPI_COMM_WORLD, {0.3, 0.3, kLong});
  std::byte word{};
  if (comm.rank() == last_) {
    wait_outside_for(comm, 1);  // reports to the root, which works, and then has what it waited for
    for (int rank = 0; rank < last_; ++rank) world().send({&word, 1}, rank, 0)->wait();
    sleep_for(1.5);  // works for longer than a roll call
  } else {
    comm.set_timeout(kLong);
    world().receive({&word, 1}, last_, 0)->wait();
    wait_outside_for(comm, 0);
  }
  EXPECT_EQ(error_of([&] { comm.all_reduce_sum(ones_); }), "");
  EXPECT_EQ(ones_[0], comm.size());
}

TEST_F(FalseAlarms, NobodyIsNamedForARankThatWentOnWhileTheRollWasCalled) {
  if (world().size() < 3) GTEST_SKIP() << "needs three ranks";
  MpiCommunicator comm(MPI_COMM_WORLD, {0.3, 1, kLong});
  if (comm.rank() == last_) {
    wait_outside_for(comm, 0.8);  // answers the roll call, and goes on before it is over
  } else {
    comm.set_timeout(kLong);
    wait_outside_for(comm, 0);
  }
  if (!comm.is_root()) sleep_for(4);  // works
  EXPECT_EQ(error_of([&] { comm.all_reduce_sum(ones_); }), "");
  EXPECT_EQ(ones_[0], comm.size());
}

bool is_stopped(std::int64_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const std::size_t name_end = text.rfind(')');
  return name_end != std::string::npos && text.compare(name_end, 3, ") T") == 0;
}

TEST_F(FalseAlarms, ARankThatWasStoppedDoesNotAccuseTheRoot) {
  const auto ids = process_ids();
  constexpr RankWatch::Timing timing{1, 0.5, 0.5};
  MpiCommunicator comm(MPI_COMM_WORLD, timing);
  if (comm.rank() == last_) {
    // By its clock it has waited for much longer than it would have for a root that hangs.
    const Stopwatch waited;
    std::optional<double> woken;
    EXPECT_EQ(error_of([&] {
                comm.wait_outside("work", [&]() -> std::optional<double> {
                  if (!woken && waited.seconds() > 0.2) {
                    raise(SIGSTOP);
                    woken = waited.seconds();
                  }
                  if (woken && waited.seconds() > *woken + 0.2) return std::nullopt;
                  return waited.seconds();
                });
              }),
              "");
    EXPECT_GT(*woken, timing.timeout + timing.roll_call + timing.grace) << "it was not stopped for long";
  } else if (comm.is_root()) {
    while (!is_stopped(ids.back())) sleep_for(0.01);
    sleep_for(timing.timeout + timing.roll_call + timing.grace + 0.2);
    kill(static_cast<pid_t>(ids.back()), SIGCONT);
  }
  world().barrier();
}

/// The last rank waits in a team that the root leaves at once.
std::string error_in_a_team_that_was_left(const RankWatch::Timing& timing, double seconds) {
  MpiCommunicator comm(MPI_COMM_WORLD, timing);
  const int last = comm.size() - 1;
  auto team = comm.split(comm.is_root() || comm.rank() == last ? 0 : 1);
  std::string error;
  if (comm.rank() == last) {
    error = error_of([&] { wait_outside_for(*team, seconds); });
  } else {
    team.reset();
  }
  comm.set_timeout(kLong);
  std::vector<std::int64_t> ones{1};
  comm.all_reduce_sum(ones);
  return error;
}

TEST_F(FalseAlarms, WhoLeftATeamDoesNotHangInIt) {
  EXPECT_EQ(error_in_a_team_that_was_left({1, 0.3, 3}, 1.9), "");
}

TEST_F(FalseAlarms, WhoWaitsForEverInATeamThatOthersLeftIsToldSo) {
  const std::string error = error_in_a_team_that_was_left({0.3, 0.3, 0.3}, kLong);
  if (world().rank() == last_) {
    EXPECT_THAT(error, AllOf(HasSubstr(rank_text(0)), HasSubstr("has left long ago")));
  }
}

}  // namespace
}  // namespace gptq::test
