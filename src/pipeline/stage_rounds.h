#pragma once

#include <optional>

#include "pipeline/grid_parts.h"

namespace gptq {

/// The schedule where no block needs what was made of another one: every stage goes through its own blocks,
/// rounding them to nearest. A round is a block of every stage; a job can be cut between two rounds, where
/// the finished blocks have no gaps.
class StageRounds {
 public:
  explicit StageRounds(const GridParts& parts) : parts_(parts) {}

  /// From the first block of this attempt to the last, and the head: returned where it was quantized.
  /// Collective.
  std::optional<QuantizedLayer> run();

 private:
  void work(const Visit& visit, BlockPrefetcher& prefetcher);
  void round_to_nearest(std::int64_t block, BlockPrefetcher& prefetcher);
  void end_round(std::int64_t next);
  void pass_safe_point(std::int64_t block);

  const GridParts& parts_;
};

}  // namespace gptq
