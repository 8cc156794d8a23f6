#pragma once

#include "pipeline/block_prefetcher.h"
#include "pipeline/block_quantizer.h"
#include "pipeline/job_run.h"
#include "pipeline/job_streams.h"
#include "pipeline/kept_inputs.h"
#include "pipeline/progress.h"
#include "pipeline/stream_routes.h"
#include "pipeline/visit_schedule.h"

namespace gptq {

/// What a job's schedule works with. Borrowed.
struct GridParts {
  const JobConfig& job;
  const JobInputs& inputs;
  const ComputeContext& compute;
  const Plan& plan;
  const ProcessGrid& grid;
  DeviceCollectives& replica_device;  ///< of grid.replicas()
  JobRun& run;
  PhaseClock& phases;
  Progress& progress;
  const DevicePositions& positions;
  JobStreams* streams;  ///< null for round-to-nearest, like the routes
  StreamRoutes* routes;

  std::int64_t blocks() const { return inputs.model->config().num_hidden_layers; }
  bool quantizes_head() const {
    return run.recipe().quantizes_head(std::string(inputs.model->architecture().head));
  }
  /// Those that hold a block here, by themselves.
  Team holders() const { return {grid.replicas(), replica_device}; }
  StageSolver solver(const Team& team) const;
  StageSummer summer() const;
  /// Room for the inputs of a block's steps.
  KeptInputs keep_inputs() const;
  /// The blocks of this rank's stage, read ahead.
  BlockPrefetcher prefetcher() const;
  PreparedBlock next_block(BlockPrefetcher& prefetcher) const;
  /// Solved layers of a block that are known to all of `team`.
  void finish_block(std::int64_t block, PreparedBlock& present, QuantizedBlock quantized,
                    Communicator& team) const;
  /// The head's sums and codes, by those whose streams have left the last block; where there are none, by
  /// rounding.
  QuantizedLayer quantize_head(const Team& team) const;
  /// The place behind everything before this block: whoever holds it has its input.
  SafePoint between_blocks(std::int64_t block) const;
  ScheduleShape schedule() const;
};

}  // namespace gptq
