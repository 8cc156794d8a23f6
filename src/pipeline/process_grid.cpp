#include "pipeline/process_grid.h"

#include <algorithm>

#include "base/error.h"

namespace gptq {
namespace {

/// Before anything depends on it: a shape that does not fit the ranks gives them places that do not exist.
GridShape checked(const GridShape& shape, int ranks) {
  if (shape.stages >= 1 && shape.replicas >= 1 && shape.ranks() == ranks) return shape;
  throw UsageError("a grid of {} stages x {} replicas needs {} ranks, but there are {}", shape.stages,
                   shape.replicas, shape.ranks(), ranks);
}

}  // namespace

ProcessGrid::ProcessGrid(Communicator& world, GridShape shape, std::int64_t first_block, std::int64_t blocks)
    : world_(world),
      shape_(checked(shape, world.size())),
      place_(place_of(shape_, world.rank())),
      first_block_(first_block),
      blocks_(blocks) {
  if (shape_.stages == 1) return;
  world_.expect_busy_ranks();
  replicas_ = world_.split(place_.stage);
}

int ProcessGrid::next_rank(std::int64_t block) const {
  return rank_at(shape_, {stage_of(block + 1), place_.replica});
}

int ProcessGrid::previous_rank(std::int64_t block) const {
  return rank_at(shape_, {stage_of(block - 1), place_.replica});
}

std::int64_t ProcessGrid::next_own_block(std::int64_t after) const {
  std::int64_t block = std::max(after + 1, first_block_);
  while (block <= blocks_ && !holds(block)) ++block;
  return block <= blocks_ ? block : blocks_ + 1;
}

}  // namespace gptq
