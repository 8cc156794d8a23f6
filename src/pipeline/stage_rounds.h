#pragma once

#include <optional>

#include "pipeline/full_precision_quantizer.h"
#include "pipeline/grid_parts.h"

namespace gptq {

/// The schedule where no block needs what was made of another one: every stage works on its own blocks, at
/// the same time as the others, rounding them to nearest or quantizing them from what the original weights of
/// the blocks before give. A round is a block of every stage; a job can be cut between two rounds, where the
/// finished blocks have no gaps.
class StageRounds {
 public:
  explicit StageRounds(const GridParts& parts);

  /// From the first block of this attempt to the last, and the head: returned where it was quantized. Behind
  /// it the streams lie with the stage that the head counts for. Collective.
  std::optional<QuantizedLayer> run();

 private:
  void work(const Visit& visit);
  void take_through(std::int64_t block);
  void quantize(std::int64_t block);
  void let_go(std::int64_t block, Activations& stream, const std::function<void()>& pass);
  void end_round(std::int64_t next);
  void pass_safe_point(std::int64_t block);

  const GridParts& parts_;
  StageSummer summer_;
  StageSolver solver_;
  BlockQuantizer::Tools tools_;
  std::int64_t block_ = 0;  ///< that is being worked on
  std::optional<KeptInputs> kept_;
  BlockPrefetcher prefetcher_;
  PreparedBlock present_;
  std::optional<FullPrecisionQuantizer> quantizer_;
};

}  // namespace gptq
