#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "model/block_layout.h"
#include "pipeline/activations.h"

namespace gptq {

/// The inputs of all steps of one block for this rank's chunks. Allocated once for all blocks, in the place
/// that the plan chose.
class KeptInputs {
 public:
  /// layouts: of all blocks that are to come.
  KeptInputs(Backend& backend, const CalibrationData& data, const std::vector<Chunk>& chunks, DType compute,
             const std::vector<const BlockLayout*>& layouts, const Activations::Room& room);

  /// Their x is the step's input, (tokens, width of the step); they have no residual stream.
  Activations& of(std::int64_t step) { return *steps_.at(static_cast<std::size_t>(step)); }
  /// For all of them; see Activations.
  void on_chunk(const Activations::OnChunk& before, const Activations::OnChunk& after);

 private:
  std::vector<std::unique_ptr<Activations>> steps_;
};

}  // namespace gptq
