#pragma once

#include <optional>

#include "pipeline/grid_parts.h"

namespace gptq {

/// The schedule of quantized propagation: stages take turns. The one that holds a block takes its samples
/// through it and quantizes its layers, the others help with the rows, if they do; every rank passes the same
/// safe points.
class StageTurns {
 public:
  /// start: what an earlier attempt left of the first block. helpers: do the stages help each other?
  StageTurns(const GridParts& parts, BlockStart start, bool helpers);

  /// From the first block of this attempt to the last, and the head. Behind it the streams lie with the stage
  /// that the head counts for; there it is returned, if it was quantized. Collective.
  std::optional<QuantizedLayer> run();

 private:
  Team solvers_of(std::int64_t block) const;
  void pass_safe_point(SafePoint point);
  void begin_block(std::int64_t block);
  void quantize(std::int64_t block, BlockPrefetcher& prefetcher);
  void help(std::int64_t block);
  std::optional<QuantizedLayer> head();

  const GridParts& parts_;
  BlockStart start_;
  bool helpers_;
  std::vector<Chunk> chunks_;
};

}  // namespace gptq
