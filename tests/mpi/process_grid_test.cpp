#include "pipeline/process_grid.h"

#include <gtest/gtest.h>

#include "comm/mpi_communicator.h"
#include "mpi_world.h"

namespace gptq::test {
namespace {

TEST(ProcessGrid, EveryShapeOfTheRanks) {
  const int ranks = world().size();
  for (int stages = 1; stages <= ranks; ++stages) {
    if (ranks % stages != 0) continue;
    SCOPED_TRACE(testing::Message() << stages << " stages");
    MpiCommunicator copy(MPI_COMM_WORLD);  // will expect busy ranks, which the world need not
    ProcessGrid grid(copy, {stages, ranks / stages}, 3, 8);
    EXPECT_EQ(rank_at(grid.shape(), grid.place()), world().rank());
    EXPECT_EQ(grid.replicas().size(), ranks / stages);
    EXPECT_EQ(grid.replicas().rank(), grid.place().replica);
    std::vector<std::int64_t> sum{world().rank()};
    grid.replicas().all_reduce_sum(sum);
    std::int64_t expected = 0;
    for (int replica = 0; replica < ranks / stages; ++replica)
      expected += rank_at(grid.shape(), {grid.place().stage, replica});
    EXPECT_EQ(sum[0], expected);

    std::int64_t next = grid.next_own_block(-1);
    for (std::int64_t block = 3; block <= 8; ++block) {
      EXPECT_EQ(grid.stage_of(block), (block - 3) % stages);
      EXPECT_EQ(grid.holds(block), next == block);
      if (!grid.holds(block)) continue;
      next = grid.next_own_block(block);
      EXPECT_EQ(place_of(grid.shape(), grid.next_rank(block)),
                (GridPlace{static_cast<int>((block - 2) % stages), grid.place().replica}));
      EXPECT_EQ(place_of(grid.shape(), grid.root_of(block)), (GridPlace{grid.place().stage, 0}));
      if (block > 3) {
        EXPECT_EQ(place_of(grid.shape(), grid.previous_rank(block)),
                  (GridPlace{static_cast<int>((block - 4) % stages), grid.place().replica}));
      }
    }
    EXPECT_EQ(next, 9);
  }
}

TEST(ProcessGrid, AShapeThatDoesNotFitTheRanksIsRefused) {
  EXPECT_THROW(ProcessGrid(world(), {world().size() + 1, 1}, 0, 4), UsageError);
  EXPECT_THROW(ProcessGrid(world(), {0, 0}, 0, 4), UsageError);
}

}  // namespace
}  // namespace gptq::test
