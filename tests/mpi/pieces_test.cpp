// Messages are cut into pieces, because MPI counts in ints: any number of pieces, with and without a rest.

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "comm/mpi_communicator.h"
#include "mpi_world.h"
#include "support/sparse_memory.h"

namespace gptq::test {
namespace {

TEST(Pieces, OfEveryNumberArriveWhole) {
  MpiCommunicator::Pieces pieces;
  pieces.large = 256;
  pieces.reduced = 64;
  pieces.sent = 96;
  MpiCommunicator comm(MPI_COMM_WORLD, {}, pieces);
  for (const std::size_t count : {1u, 12u, 31u, 32u, 33u, 40u, 96u, 1000u}) {
    std::vector<std::int64_t> values(count);
    std::iota(values.begin(), values.end(), comm.rank());
    comm.all_reduce_sum(values);
    for (std::size_t i = 0; i < count; ++i) {
      const std::int64_t ranks = comm.size();
      ASSERT_EQ(values[i], ranks * static_cast<std::int64_t>(i) + ranks * (ranks - 1) / 2) << count;
    }
    std::vector<std::byte> sent(count, std::byte(comm.rank() + 1));
    for (std::size_t i = 0; i < count; ++i) sent[i] ^= std::byte(i);
    const auto all = comm.all_gather(sent);
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
      ASSERT_EQ(all[rank].size(), count);
      for (std::size_t i = 0; i < count; ++i)
        ASSERT_EQ(all[rank][i], std::byte(rank + 1) ^ std::byte(i)) << count;
    }
  }
}

// 2.2 GB, more than an int counts, in memory that is 16 MB over and over: every piece must leave in it what
// the root had, wherever it lies.
TEST(Pieces, BeyondTwoGigabytes) {
  if (!wide_tests_wanted()) GTEST_SKIP() << "moves 2.2 GB; set GPTQ_HPC_WIDE=1";
  constexpr std::size_t kBytes = (std::size_t{1} << 31) + (std::size_t{100} << 20) + 24;
  const int root = world().size() - 1;
  const RepeatedMemory memory(kBytes, world().rank() == root ? 77 : -1);
  world().broadcast(memory.as<std::byte>(), kBytes, root);
  EXPECT_EQ(memory.as<std::int64_t>()[0], 77);
  EXPECT_EQ(memory.as<std::int64_t>()[(kBytes - 8) / 8], 77);
  EXPECT_EQ(memory.as<std::int64_t>()[RepeatedMemory::kPiece / 8 - 1], 77);
}

}  // namespace
}  // namespace gptq::test
