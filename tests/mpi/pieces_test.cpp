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

// 2.2 GB, more than an int counts: 16 MB over and over on the root, real memory on the others, so that a piece
// that stays away or lands elsewhere leaves zeros.
TEST(Pieces, BeyondTwoGigabytes) {
  if (!wide_tests_wanted()) GTEST_SKIP() << "takes 2.2 GB on every rank but one; set GPTQ_HPC_WIDE=1";
  constexpr std::size_t kBytes = (std::size_t{1} << 31) + (std::size_t{100} << 20) + 24;
  const int root = world().size() - 1;
  const RepeatedMemory sent(kBytes, 77);
  const SparseMemory received(kBytes);
  const bool is_root = world().rank() == root;
  auto* const data = is_root ? sent.as<std::int64_t>() : received.as<std::int64_t>();
  world().broadcast(data, kBytes, root);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < kBytes / sizeof(std::int64_t); ++i) wrong += data[i] != 77 ? 1 : 0;
  EXPECT_EQ(wrong, 0u);
}

}  // namespace
}  // namespace gptq::test
