// The NCCL plugin's own code, among real processes, with NCCL and the GPU emulated: sums, broadcasts, and
// above all what happens when something hangs or fails.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "comm/mpi_communicator.h"
#include "comm/nccl_plugin.h"
#include "mpi/collectives_cases.h"
#include "mpi/mpi_world.h"
#include "tests/cuda_emulation/nccl/nccl_emulation.h"

extern "C" gptq::DeviceCollectives* gptq_hpc_nccl_collectives(gptq::Communicator& comm,
                                                              const gptq::NcclPlace& place);

namespace gptq::test {
namespace {

using nccl_emulation::calls;
using nccl_emulation::faults;
using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;

constexpr RankWatch::Timing kQuick{1.5, 0.5, 0.6};
// A roll that goes on once, the one that names, and the wait of those that are told nothing (rank_watch.cpp).
constexpr double kBound = kQuick.timeout + 4 * kQuick.roll_call + kQuick.grace + 1;

void sleep_for(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

class Nccl : public testing::Test {
 protected:
  void SetUp() override {
    nccl_emulation::forget_faults();
    aborted_ = calls().aborted;
    finalized_ = calls().finalized;
  }
  void TearDown() override {
    collectives_.reset();
    EXPECT_EQ(calls().events, 0);
    EXPECT_EQ(calls().queues, 0);
    nccl_emulation::destroy_queue(queue_);
    nccl_emulation::forget_faults();
    world().barrier();
  }

  DeviceCollectives& start(double timeout = kQuick.timeout) {
    collectives_.reset(gptq_hpc_nccl_collectives(comm_, {.device = 0, .queue = queue_, .timeout = timeout}));
    return *collectives_;
  }
  /// What all ranks are told when NCCL does not start; empty if it does.
  std::string start_problem() {
    const Stopwatch started;
    std::string problem;
    try {
      start();
    } catch (const CollectiveError& error) {
      problem = error.what();
    }
    EXPECT_LT(started.seconds(), kBound + 1);
    const auto problems = world().all_gather(std::as_bytes(std::span(problem)));
    for (const auto& other : problems) EXPECT_EQ(other, problems.front());
    return problem;
  }

  bool last() const { return world().rank() == world().size() - 1; }
  bool alone() const { return world().size() == 1; }
  int aborted() const { return calls().aborted - aborted_; }
  int finalized() const { return calls().finalized - finalized_; }

  MpiCommunicator comm_{MPI_COMM_WORLD, kQuick};
  cudaStream_t queue_ = nccl_emulation::make_queue();
  std::unique_ptr<DeviceCollectives> collectives_;
  std::vector<std::int64_t> values_{std::vector<std::int64_t>(100, 1)};

 private:
  int aborted_ = 0, finalized_ = 0;
};

/// What `action` throws, which must be an Error of this kind, in bounded time.
template <typename Kind>
std::string thrown(const std::function<void()>& action) {
  const Stopwatch started;
  std::string text = "nothing was thrown";
  try {
    action();
  } catch (const Kind& error) {
    text = error.what();
  } catch (const std::exception& error) {
    text = std::string("another kind of error: ") + error.what();
  }
  EXPECT_LT(started.seconds(), kBound);
  return text;
}

TEST_F(Nccl, SumsAndBroadcastsExactly) {
  check_all(start(30), comm_);
  EXPECT_THAT(collectives_->describe(), testing::StartsWith("nccl 2."));
  collectives_.reset();
  EXPECT_EQ(finalized(), 1);
  EXPECT_EQ(aborted(), 0);
}

TEST_F(Nccl, CallsReturnEarlyAndTheQueueKeepsTheOrder) {
  DeviceCollectives& nccl = start(30);
  std::vector<std::int64_t> after;
  const Stopwatch called;
  nccl_emulation::submit(queue_, [&] {
    sleep_for(0.4);
    std::fill(values_.begin(), values_.end(), comm_.rank() + 1);
  });
  for (int i = 0; i < 3; ++i) nccl.all_reduce_sum(values_.data(), values_.size());
  nccl_emulation::submit(queue_, [&] { after = values_; });
  EXPECT_LT(called.seconds(), 0.3);
  nccl.check();
  nccl.wait();
  cudaStreamSynchronize(queue_);
  const std::int64_t n = comm_.size();
  EXPECT_EQ(after, std::vector<std::int64_t>(100, n * (n + 1) / 2 * n * n));
}

TEST_F(Nccl, OwnKernelsTakeTheirTime) {
  DeviceCollectives& nccl = start();
  nccl_emulation::submit(queue_, [] { sleep_for(1.3 * kQuick.timeout); });
  nccl.all_reduce_sum(values_.data(), values_.size());
  nccl.wait();
  nccl_emulation::submit(queue_, [] { sleep_for(1.3 * kQuick.timeout); });
  nccl.all_reduce_sum(values_.data(), values_.size());
  cudaStreamSynchronize(queue_);
  nccl.check();
  EXPECT_EQ(values_[0], comm_.size() * comm_.size());
}

TEST_F(Nccl, KernelsRunBesideStartedSumsUntilTheyAreJoined) {
  DeviceCollectives& nccl = start(30);
  EXPECT_TRUE(nccl.overlaps());
  std::vector<std::int64_t> beside, after;
  world().barrier();
  if (last()) sleep_for(0.5);
  nccl_emulation::submit(queue_, [&] { std::fill(values_.begin(), values_.begin() + 50, comm_.rank() + 1); });
  nccl.start_sum(values_.data(), 50);
  nccl_emulation::submit(queue_, [&] { std::fill(values_.begin() + 50, values_.end(), 3); });
  nccl.start_sum(values_.data() + 50, 50);
  nccl_emulation::submit(queue_, [&] { beside.assign(1, 5); });
  const Stopwatch waited;
  cudaStreamSynchronize(queue_);
  EXPECT_EQ(beside.size(), 1u);
  EXPECT_LT(waited.seconds(), 0.3) << "kernels waited for the last rank";
  nccl.join();
  nccl_emulation::submit(queue_, [&] { after = values_; });
  EXPECT_LT(waited.seconds(), 0.3) << "the host waited for the last rank";
  cudaStreamSynchronize(queue_);
  const std::int64_t n = comm_.size();
  std::vector<std::int64_t> expected(100, 3 * n);
  std::fill(expected.begin(), expected.begin() + 50, n * (n + 1) / 2);
  EXPECT_EQ(after, expected);
  nccl.wait();
}

TEST_F(Nccl, AStartedSumComesAfterTheKernelsBeforeIt) {
  DeviceCollectives& nccl = start();
  nccl_emulation::submit(queue_, [&] {
    sleep_for(1.3 * kQuick.timeout);
    std::fill(values_.begin(), values_.end(), 2);
  });
  nccl.start_sum(values_.data(), values_.size());
  nccl.join();
  cudaStreamSynchronize(queue_);
  nccl.check();
  EXPECT_EQ(values_, std::vector<std::int64_t>(100, 2 * comm_.size()));
}

TEST_F(Nccl, StartedSumsKeepTheirOrderWithOtherOperations) {
  DeviceCollectives& nccl = start(30);
  nccl.join();  // of nothing
  const std::int64_t n = comm_.size();
  nccl.start_sum(values_.data(), 100);
  nccl.all_reduce_sum(values_.data(), 100);
  nccl.start_sum(values_.data(), 50);
  nccl.broadcast(values_.data(), 800, 0);
  std::vector<std::int64_t> after;
  nccl_emulation::submit(queue_, [&] { after = values_; });  // no join: the broadcast came after all of them
  cudaStreamSynchronize(queue_);
  std::vector<std::int64_t> expected(100, n * n);
  std::fill(expected.begin(), expected.begin() + 50, n * n * n);
  EXPECT_EQ(after, expected);
  nccl.wait();
  nccl.join();
  nccl.start_sum(values_.data(), 0);
  nccl.join();
}

TEST_F(Nccl, ARankThatDoesNotComeToAStartedSumIsNamed) {
  if (alone()) GTEST_SKIP() << "needs two ranks";
  DeviceCollectives& nccl = start();
  if (last()) {
    sleep_for(2 * kBound);
  } else {
    bool beside = false, after = false;
    nccl.start_sum(values_.data(), 50);
    nccl_emulation::submit(queue_, [&] { beside = true; });
    nccl.start_sum(values_.data() + 50, 50);
    const Stopwatch waited;
    cudaStreamSynchronize(queue_);
    EXPECT_TRUE(beside);
    EXPECT_LT(waited.seconds(), 0.5 * kQuick.timeout);
    nccl.join();
    nccl_emulation::submit(queue_, [&] { after = true; });
    cudaStreamSynchronize(queue_);
    EXPECT_TRUE(after) << "who waits for the kernels' queue is freed";
    EXPECT_LT(waited.seconds(), kQuick.timeout + 1);
    const std::string text = thrown<CommError>([&] { nccl.wait(); });
    EXPECT_THAT(text, HasSubstr("NCCL's sum #2 of 400 bytes did not finish in "));
    if (comm_.is_root()) {
      EXPECT_THAT(text, HasSubstr("did not come to collective operation"));
    }
    const auto same = HasSubstr("NCCL's sum #2 of 400 bytes did not finish in ");
    EXPECT_THAT(thrown<CommError>([&] { nccl.start_sum(values_.data(), 1); }), same) << "it stays failed";
    EXPECT_THAT(thrown<CommError>([&] { nccl.join(); }), same);
  }
}

TEST_F(Nccl, AStartedSumThatFailsIsToldByTheNextCall) {
  faults().error_at = 3;
  DeviceCollectives& nccl = start();
  nccl.start_sum(values_.data(), 50);
  nccl.start_sum(values_.data() + 50, 50);
  nccl_emulation::submit(queue_, [] { sleep_for(0.5); });
  cudaStreamSynchronize(queue_);
  EXPECT_THAT(
      thrown<CommError>([&] { nccl.join(); }),
      AllOf(HasSubstr("NCCL failed while at work on sum #3 of 400 bytes"), HasSubstr("emulated fault")));
  EXPECT_EQ(aborted(), 1);
}

TEST_F(Nccl, AKernelThatFailsBesideAStartedSumIsTheDevicesError) {
  DeviceCollectives& nccl = start();
  nccl_emulation::submit(queue_, [] { sleep_for(0.3); });  // so that the sum is not done before the fault
  nccl.start_sum(values_.data(), 100);
  faults().kernel_fault = true;
  EXPECT_THAT(thrown<DeviceError>([&] {
                nccl.join();
                nccl.wait();
              }),
              AllOf(HasSubstr("cudaErrorIllegalAddress"), HasSubstr("sum #2")));
  faults().kernel_fault = false;
  EXPECT_EQ(aborted(), 1);
}

TEST_F(Nccl, StartedSumsThatNobodyJoinsDoNotHangTheEnd) {
  DeviceCollectives& nccl = start();
  nccl_emulation::submit(queue_, [] { sleep_for(0.2); });
  nccl.start_sum(values_.data(), values_.size());
  collectives_.reset();
  EXPECT_EQ(values_[5], comm_.size());
  EXPECT_EQ(finalized(), 1);
}

TEST_F(Nccl, ARankThatIsLateButInTimeIsNoError) {
  DeviceCollectives& nccl = start();
  if (last()) sleep_for(0.6 * kQuick.timeout);
  nccl.all_reduce_sum(values_.data(), values_.size());
  nccl.wait();
  EXPECT_EQ(values_[99], comm_.size());
}

TEST_F(Nccl, AStartThatFailsOnOneRankFailsOnAll) {
  faults().refuse_start = last();
  EXPECT_THAT(start_problem(),
              AnyOf(HasSubstr("NCCL failed while starting: unhandled system error: emulated fault"),
                    HasSubstr("NCCL did not finish its start in 1 s")));
  EXPECT_EQ(aborted(), last() ? 0 : 1);
}

TEST_F(Nccl, AStartThatHangsOnOneRankFailsOnAll) {
  faults().never_start = last();
  EXPECT_THAT(start_problem(),
              AllOf(HasSubstr("rank 0: NCCL did not finish its start"), HasSubstr("NCCL_SOCKET_IFNAME")));
  EXPECT_EQ(aborted(), 1);
}

TEST_F(Nccl, AFirstSumThatIsWrongOrHangsFailsOnAll) {
  faults().wrong_sums = last();
  EXPECT_THAT(start_problem(), HasSubstr("is broken: its first sum is"));
  faults().wrong_sums = false;
  faults().hang_at = last() ? 1 : 0;
  EXPECT_THAT(start_problem(), HasSubstr("did not finish its first sum"));
  EXPECT_EQ(aborted() + finalized(), 2);
}

TEST_F(Nccl, ARankThatDoesNotComeIsNamedByTheRoot) {
  if (alone()) GTEST_SKIP() << "needs two ranks";
  DeviceCollectives& nccl = start();
  if (last()) {
    sleep_for(kBound);
  } else {
    const std::string text = thrown<CommError>([&] {
      nccl.all_reduce_sum(values_.data(), values_.size());
      nccl.wait();
    });
    const std::string missing = "rank " + std::to_string(world().size() - 1) + " (process ";
    EXPECT_THAT(text, HasSubstr("NCCL was aborted at sum #2 of 800 bytes"));
    if (comm_.is_root()) {
      EXPECT_THAT(text, AllOf(HasSubstr(missing), HasSubstr("(nccl)")));
    }
    EXPECT_EQ(aborted(), 1);
    EXPECT_EQ(thrown<CommError>([&] { nccl.all_reduce_sum(values_.data(), 1); }), text) << "it stays failed";
    EXPECT_EQ(thrown<CommError>([&] { nccl.wait(); }), text);
  }
}

TEST_F(Nccl, WhoWaitsForTheQueueIsFreedInTime) {
  if (alone()) GTEST_SKIP() << "needs two ranks";
  DeviceCollectives& nccl = start();
  if (last()) {
    sleep_for(2 * kBound);
  } else {
    nccl.all_reduce_sum(values_.data(), values_.size());
    const Stopwatch waited;
    cudaStreamSynchronize(queue_);
    EXPECT_LT(waited.seconds(), kQuick.timeout + 1);
    const std::string text = thrown<CommError>([&] { nccl.check(); });
    EXPECT_THAT(text, HasSubstr("NCCL's sum #2 of 800 bytes did not finish in "));
    if (comm_.is_root()) {
      EXPECT_THAT(text, HasSubstr("did not come to collective operation"));
    }
  }
}

TEST_F(Nccl, AnErrorOfNcclReachesTheCaller) {
  faults().error_at = last() ? 2 : 0;
  DeviceCollectives& nccl = start();
  nccl.all_reduce_sum(values_.data(), values_.size());
  const std::string text = thrown<CommError>([&] { nccl.wait(); });
  if (last()) {
    EXPECT_THAT(text, AllOf(HasSubstr("NCCL failed while at work on sum #2 of 800 bytes"),
                            HasSubstr("remote process exited"), HasSubstr("emulated fault"),
                            HasSubstr("look at the other ranks' messages first")));
  }
  EXPECT_EQ(aborted(), 1);
}

TEST_F(Nccl, AnErrorIsSeenWhileTheHostIsElsewhere) {
  faults().error_at = 2;
  DeviceCollectives& nccl = start(30);
  nccl.broadcast(values_.data(), 800, 0);
  cudaStreamSynchronize(queue_);
  EXPECT_THAT(thrown<CommError>([&] { nccl.check(); }), HasSubstr("broadcast #2"));
  EXPECT_EQ(aborted(), 1);
}

TEST_F(Nccl, ACallThatFailsIsTold) {
  faults().refuse_at = 2;
  DeviceCollectives& nccl = start();
  EXPECT_THAT(thrown<CommError>([&] { nccl.broadcast(values_.data(), 800, 0); }),
              HasSubstr("NCCL failed while entering broadcast #2 of 800 bytes: invalid argument"));
  EXPECT_EQ(aborted(), 1);
}

TEST_F(Nccl, AnOperationThatNeverGetsIntoTheQueueIsGivenUp) {
  faults().never_enter_at = 2;
  DeviceCollectives& nccl = start();
  EXPECT_THAT(thrown<CommError>([&] { nccl.all_reduce_sum(values_.data(), 100); }),
              HasSubstr("NCCL was aborted at sum #2 of 800 bytes"));
  EXPECT_EQ(aborted(), 1);
}

TEST_F(Nccl, AnAbortThatHangsHangsNobodyElse) {
  if (!alone()) GTEST_SKIP() << "takes long; one rank tells all";
  faults().refuse_at = 2;
  faults().abort_hangs = true;
  DeviceCollectives& nccl = start();
  const Stopwatch called;
  EXPECT_THROW(nccl.all_reduce_sum(values_.data(), 100), CommError);
  EXPECT_GT(called.seconds(), 9);
  EXPECT_LT(called.seconds(), 15);
  EXPECT_EQ(aborted(), 0);
  faults().abort_hangs = false;
  collectives_.reset();
  EXPECT_EQ(aborted(), 1);
}

TEST_F(Nccl, AKernelThatFailsIsTheDevicesError) {
  DeviceCollectives& nccl = start();
  nccl.all_reduce_sum(values_.data(), values_.size());
  nccl.wait();
  faults().kernel_fault = true;
  nccl.all_reduce_sum(values_.data(), values_.size());
  EXPECT_THAT(thrown<DeviceError>([&] { nccl.wait(); }),
              AllOf(HasSubstr("cudaErrorIllegalAddress"), HasSubstr("sum #3")));
  faults().kernel_fault = false;
  EXPECT_EQ(aborted(), 1);
}

TEST_F(Nccl, AfterAnExceptionItIsNotEndedInPeace) {
  start();
  try {
    const std::unique_ptr<DeviceCollectives> mine = std::move(collectives_);
    throw DeviceError("something else");
  } catch (const DeviceError&) {
  }
  EXPECT_EQ(aborted(), 1);
  EXPECT_EQ(finalized(), 0);
}

TEST_F(Nccl, AnEndWithWorkUnderWayLetsItFinish) {
  DeviceCollectives& nccl = start();
  nccl_emulation::submit(queue_, [] { sleep_for(0.2); });
  nccl.all_reduce_sum(values_.data(), values_.size());
  collectives_.reset();
  EXPECT_EQ(values_[5], comm_.size());
  EXPECT_EQ(finalized(), 1);
  EXPECT_EQ(aborted(), 0);
}

}  // namespace
}  // namespace gptq::test
