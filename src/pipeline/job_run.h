#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/background_export.h"
#include "pipeline/checkpointer.h"
#include "pipeline/job_directory.h"
#include "pipeline/job_inputs.h"
#include "pipeline/process_grid.h"

namespace gptq {

/// What a job keeps while it runs: its directory, the output's files, checkpoints, and the figures of its
/// layers. A block's root writes it and answers for its figures; the root of the world owns all files. Calls
/// are collective over the world unless they say otherwise.
class JobRun {
 public:
  /// Borrows everything.
  JobRun(const JobConfig& job, const JobInputs& inputs, const ComputeContext& compute, Communicator& world);

  const Recipe& recipe() const { return recipe_; }
  const std::string& fingerprint() const { return fingerprint_; }
  const std::map<std::string, std::string>& identity() const { return identity_; }

  /// Takes the directory and looks for a checkpoint to go on from. fresh: discards it.
  void open(bool fresh);
  const CheckpointDirectory& checkpoint_directory() const { return directory_->checkpoint(); }
  const CheckpointManifest* checkpoint() const { return found_.good ? &*found_.good : nullptr; }  ///< or null
  std::int64_t first_block() const { return found_.good ? found_.good->block : 0; }
  std::int64_t attempts() const { return found_.good ? found_.good->attempts + 1 : 1; }
  double seconds_before() const { return found_.good ? found_.good->seconds : 0; }  ///< of earlier attempts

  /// Makes the output's files, or takes up those of the attempt before. trace: of writing; or null.
  void open_output(const ProcessGrid& grid, Trace* trace);
  /// Everything is there that a checkpoint may count on.
  void start_checkpoints(Backend& backend, PhaseClock& phases);

  void at_safe_point(const SafePoint& point) { checkpointer_->at_safe_point(point, layers_); }
  Checkpointer& checkpointer() { return *checkpointer_; }
  /// Figures of solved layers, known to all of `team`. Throws NumericalError there, by its root alone where
  /// it is not the world, when too many layers fell back. Collective over the team.
  void record(const std::vector<LayerStatistics>& rows, Communicator& team);
  /// Of a block that is done. By its root alone, not collective.
  void write_block(std::int64_t block, BlockWeights weights, QuantizedBlock quantized);
  void write_head(const QuantizedLayer& head, const std::vector<LayerStatistics>& rows);

  /// Completes the output. Returns every layer's figures, on the root.
  std::vector<LayerStatistics> finish();

 private:
  BlockHashes written_blocks(std::int64_t block);
  std::string too_many_fallbacks(std::int64_t fallbacks, const std::string& last) const;
  void keep(const std::vector<LayerStatistics>& rows) {
    layers_.insert(layers_.end(), rows.begin(), rows.end());
  }

  const JobConfig& job_;
  const JobInputs& inputs_;
  const ComputeContext& compute_;
  Communicator& world_;
  Recipe recipe_;
  std::map<std::string, std::string> identity_;
  std::string fingerprint_;
  std::optional<JobDirectory> directory_;
  FoundCheckpoint found_;
  GridShape grid_;
  std::optional<BackgroundExport> export_;  ///< on the roots of stages
  std::optional<Checkpointer> checkpointer_;
  std::vector<LayerStatistics> layers_;  ///< that this rank answers for; the root also for earlier attempts'
  std::int64_t fallbacks_ = 0;           ///< that this rank knows of
};

}  // namespace gptq
