#pragma once

#include <optional>
#include <vector>

#include "pipeline/activations.h"
#include "pipeline/block_quantizer.h"
#include "pipeline/job_inputs.h"
#include "pipeline/resume.h"

namespace gptq {

/// All chunks of a job's calibration.
std::vector<Chunk> chunks_of(const JobInputs& inputs, const Plan& plan);

/// The streams of hidden states that a calibrating job takes this rank's samples through the model in: one
/// through the quantized weights; with correction_alpha above 0 a second, the reference, through the original
/// ones; without it, where samples are held out, a reference of these alone. With full-precision propagation
/// the first goes through the original weights, and that of the held-out samples through the quantized ones.
class JobStreams {
 public:
  /// Makes room for them where the plan says. replica: of those that share the samples. x_width: the widest
  /// input that a step has there. Borrows all but room.
  JobStreams(const JobInputs& inputs, const ComputeContext& compute, const Plan& plan,
             const Activations::Room& room, int replica, std::int64_t x_width);

  /// Fills all of them with the samples' token embeddings.
  void embed();

  BlockQuantizer::Streams in_block();
  StreamsToRestore to_restore();
  /// Between two blocks.
  void add_to(SafePoint& point) const;

  /// Every one of them, in the same order on all ranks.
  std::vector<Activations*> all();
  Activations& quantized() { return *quantized_; }
  Activations* reference() { return reference_ ? &*reference_ : nullptr; }
  Activations* held_out() { return held_out_ ? &*held_out_ : nullptr; }
  /// In which the held-out samples are at full precision; null: none is held out, by any rank.
  Activations* held_out_reference();

 private:
  const JobInputs& inputs_;
  Backend& backend_;
  std::optional<Activations> quantized_, reference_, held_out_;
};

}  // namespace gptq
