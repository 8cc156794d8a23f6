#pragma once

#include <cstdint>
#include <memory>

#include "comm/communicator.h"
#include "pipeline/grid_shape.h"

namespace gptq {

/// Where ranks stand, and the communicators among them. Every rank of the world has a place.
class ProcessGrid {
 public:
  /// first_block: the one that this attempt begins with; blocks: of the model, whose head counts as block
  /// number `blocks`. Throws UsageError if the shape does not have as many places as there are ranks.
  /// Collective.
  ProcessGrid(Communicator& world, GridShape shape, std::int64_t first_block, std::int64_t blocks);

  const GridShape& shape() const { return shape_; }
  GridPlace place() const { return place_; }
  std::int64_t first_block() const { return first_block_; }
  std::int64_t blocks() const { return blocks_; }
  int stage_of(std::int64_t block) const { return stage_of_block(shape_, first_block_, block); }
  bool holds(std::int64_t block) const { return stage_of(block) == place_.stage; }
  /// World rank of the first replica of the block's stage: it factors, and exports what belongs to no layer.
  int root_of(std::int64_t block) const { return rank_at(shape_, {stage_of(block), 0}); }
  /// Is this rank that one?
  bool is_root_of(std::int64_t block) const { return world_.rank() == root_of(block); }
  /// World ranks of this replica on the stages of the next block and of the one before; with one stage
  /// itself.
  int next_rank(std::int64_t block) const;
  int previous_rank(std::int64_t block) const;
  /// The first block behind `after` that this rank holds; blocks + 1: there is none, the head included.
  std::int64_t next_own_block(std::int64_t after) const;

  Communicator& world() const { return world_; }
  Communicator& replicas() const {
    return replicas_ ? *replicas_ : world_;
  }  ///< of this rank's stage, in order

 private:
  Communicator& world_;
  GridShape shape_;
  GridPlace place_;
  std::int64_t first_block_, blocks_;
  std::unique_ptr<Communicator> replicas_;  ///< null: all ranks
};

}  // namespace gptq
