#pragma once

#include <string>
#include <vector>

#include "model/decoder_block.h"
#include "pipeline/activations.h"
#include "pipeline/phase_clock.h"

namespace gptq {

/// One stream of this rank's samples on its way through one block, stage group by stage group. Borrows
/// everything.
class BlockStream {
 public:
  /// phase: what its time counts as.
  BlockStream(const ModelWeights& model, Backend& backend, PhaseClock& phases, const char* phase,
              std::int64_t block_index, DecoderBlock& block, Activations& activations);

  Activations& activations() const { return activations_; }
  DecoderBlock& block() const { return block_; }

  /// From the residual stream to the first group's input. Returns its columns' largest magnitudes over this
  /// rank's samples. Throws NumericalError naming the sample where they are not finite; so do the others.
  std::vector<float> enter();
  /// Through the group's layers to the next group's input; empty after the last group.
  std::vector<float> advance(std::int64_t group);
  /// Of a group's input that is there already.
  std::vector<float> column_maximum(std::int64_t group);
  /// Group `first` and everything behind it.
  void run_from(std::int64_t first);

 private:
  DeviceBuffer zeros(std::int64_t width);
  std::vector<float> finite_maximum(const DeviceBuffer& maximum, std::int64_t group);
  [[noreturn]] void blame_a_sample(std::int64_t group, std::int64_t width);

  const ModelWeights& model_;
  Backend& backend_;
  PhaseClock& phases_;
  const char* phase_;
  std::int64_t block_index_;
  DecoderBlock& block_;
  Activations& activations_;
};

}  // namespace gptq
