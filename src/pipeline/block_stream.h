#pragma once

#include <string>
#include <vector>

#include "model/decoder_block.h"
#include "pipeline/activations.h"
#include "pipeline/phase_clock.h"

namespace gptq {

/// x of the activations is the input of the block's step, and not finite: throws NumericalError naming the
/// sample and the stage group.
[[noreturn]] void blame_a_sample(Backend& backend, const BlockLayout& layout, std::int64_t block_index,
                                 std::int64_t step, Activations& activations);

/// One stream of this rank's samples on its way through one block, step by step (BlockLayout). Borrows
/// everything.
class BlockStream {
 public:
  /// phase: what its time counts as.
  BlockStream(Backend& backend, PhaseClock& phases, const char* phase, std::int64_t block_index,
              DecoderBlock& block, Activations& activations);

  Activations& activations() const { return activations_; }
  DecoderBlock& block() const { return block_; }

  /// From the residual stream to the first step's input. Returns its columns' largest magnitudes over this
  /// rank's samples. Throws NumericalError naming the sample where they are not finite; so do the others.
  std::vector<float> enter();
  /// Through the step's layers to the next step's input; empty after the last step.
  std::vector<float> advance(std::int64_t step);
  /// Of a step's input that is there already.
  std::vector<float> column_maximum(std::int64_t step);

 private:
  DeviceBuffer zeros(std::int64_t width);
  std::vector<float> finite_maximum(const DeviceBuffer& maximum, std::int64_t step);

  Backend& backend_;
  PhaseClock& phases_;
  const char* phase_;
  std::int64_t block_index_;
  DecoderBlock& block_;
  Activations& activations_;
};

}  // namespace gptq
