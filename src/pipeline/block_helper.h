#pragma once

#include "pipeline/block_quantizer.h"
#include "pipeline/sample_shard.h"

namespace gptq {

/// A rank's part in a block that another stage holds: it solves some of its rows, and passes the same safe
/// points. The counterpart of BlockQuantizer, which calls the same collectives in the same order.
class BlockHelper {
 public:
  /// Borrowed.
  struct Tools {
    const ModelWeights& model;
    const Recipe& recipe;
    StageSolver* solver;               ///< null: the stage solves alone, and there are only the safe points
    const std::vector<Chunk>& chunks;  ///< of the whole calibration
    int replicas;                      ///< ranks that share them
    BlockQuantizer::OnLayers on_layers;
    OnSafePoint on_safe_point;
  };

  explicit BlockHelper(const Tools& tools) : tools_(tools) {}

  /// start: where the stage begins. Returns figures of the block's layers; where there is a solver, of all.
  std::vector<LayerStatistics> run(std::int64_t block, BlockStart start);

 private:
  void pass_safe_points(const SafePoint& here, const std::vector<std::int64_t>& summed) const;

  const Tools& tools_;
};

}  // namespace gptq
