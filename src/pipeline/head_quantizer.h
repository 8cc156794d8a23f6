#pragma once

#include "pipeline/block_quantizer.h"

namespace gptq {

/// Quantizes the model's head: one more stage group behind the last block, whose input is the final norm's
/// output.
class HeadQuantizer {
 public:
  HeadQuantizer(const BlockQuantizer::Tools& tools, DType compute) : tools_(tools), compute_(compute) {}

  /// The streams that left the last block; quantized null: rounds to nearest. Their x is overwritten.
  /// Collective.
  SolvedStage run(Activations* quantized, Activations* reference);

 private:
  std::vector<float> normalize(Activations& stream);

  const BlockQuantizer::Tools& tools_;
  DType compute_;
};

}  // namespace gptq
