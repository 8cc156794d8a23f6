#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "mpi_world.h"

namespace gptq::test {
namespace {

TEST(Communicator, SumsIntegersExactlyBeyondDoublePrecision) {
  const std::int64_t base = (std::int64_t{1} << 60) / world().size();
  std::vector<std::int64_t> values{base + world().rank(), -base - 3 * world().rank(), 1};
  world().all_reduce_sum(values);
  const std::int64_t n = world().size();
  const std::int64_t ranks = n * (n - 1) / 2;
  EXPECT_EQ(values[0], base * n + ranks);
  EXPECT_EQ(values[1], -base * n - 3 * ranks);
  EXPECT_EQ(values[2], n);
}

TEST(Communicator, MaxOfMagnitudesIsExact) {
  std::vector<float> values{static_cast<float>(world().rank()),
                            1e-38f * static_cast<float>(world().rank() + 1), 0.0f};
  world().all_reduce_max(std::span<float>(values));
  EXPECT_EQ(values[0], static_cast<float>(world().size() - 1));
  EXPECT_EQ(values[1], 1e-38f * static_cast<float>(world().size()));
  EXPECT_EQ(values[2], 0.0f);
}

TEST(Communicator, NanOnOneRankReachesAll) {
  const bool last = world().rank() == world().size() - 1;
  std::vector<float> values{last ? std::numeric_limits<float>::quiet_NaN()
                                 : std::numeric_limits<float>::infinity()};
  world().all_reduce_max(std::span<float>(values));
  EXPECT_TRUE(std::isnan(values[0]));
}

TEST(Communicator, BroadcastsFromAnyRoot) {
  for (int root = 0; root < world().size(); ++root) {
    std::vector<int> values(1000, world().rank());
    world().broadcast(values.data(), values.size() * sizeof(int), root);
    EXPECT_EQ(values.front(), root);
    EXPECT_EQ(values.back(), root);
  }
}

TEST(Communicator, GathersDifferentLengthsInRankOrder) {
  std::vector<std::byte> mine(static_cast<std::size_t>(world().rank() * 7), std::byte(world().rank()));
  const auto all = world().all_gather(mine);
  ASSERT_EQ(all.size(), static_cast<std::size_t>(world().size()));
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    ASSERT_EQ(all[rank].size(), rank * 7);
    for (std::byte value : all[rank]) EXPECT_EQ(value, std::byte(rank));
  }
}

TEST(Communicator, LargeMessagesArriveWhole) {
  // More than one piece of a large reduction, and a rest.
  std::vector<std::int64_t> values((std::size_t{5} << 18) + 3);
  const std::int64_t n = world().size();
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<std::int64_t>(i) * 1'000'003 + world().rank();
  }
  world().all_reduce_sum(values);
  std::int64_t wrong = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    wrong += values[i] != n * static_cast<std::int64_t>(i) * 1'000'003 + n * (n - 1) / 2;
  }
  EXPECT_EQ(wrong, 0);
  std::vector<int> sent(300'000, world().rank());
  world().broadcast(sent.data(), sent.size() * sizeof(int), world().size() - 1);
  EXPECT_EQ(std::count(sent.begin(), sent.end(), world().size() - 1), 300'000);
}

TEST(RunOnRoot, RunsOnceAndReturnsEverywhere) {
  std::vector<std::int64_t> runs{0};
  run_on_root(world(), [&] { runs[0] = 1; });
  world().all_reduce_sum(runs);
  EXPECT_EQ(runs[0], 1);
}

TEST(RunOnRoot, AFailureReachesEveryRankWithItsMessage) {
  try {
    run_on_root(world(), [] { throw InputError("no file {}", "x.bin"); });
    FAIL() << "no exception on rank " << world().rank();
  } catch (const CollectiveError& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::bad_input);
    EXPECT_STREQ(error.what(), "no file x.bin");
  }
}

}  // namespace
}  // namespace gptq::test
