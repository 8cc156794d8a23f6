#pragma once

#include <cstdint>
#include <vector>

#include "pipeline/block_quantizer.h"
#include "pipeline/kept_inputs.h"

namespace gptq {

/// Quantizes one block's layers from the inputs that its original weights give them (propagation
/// full_precision): pass() lets every chunk go to the next block before anything is solved.
class FullPrecisionQuantizer {
 public:
  using Tools = BlockQuantizer::Tools;

  /// block: with the original weights. Borrows everything.
  FullPrecisionQuantizer(const Tools& tools, const BlockWeights& weights, DecoderBlock& block,
                         KeptInputs& kept);

  /// The stream's chunks, one after the other through the whole block.
  void pass(Activations& stream);
  /// From the inputs that were kept. Collective over the ranks that hold the block.
  QuantizedBlock solve();
  /// The held-out samples alone, through what solve() made.
  void pass_quantized(Activations& held_out, const QuantizedBlock& quantized);

 private:
  const BlockLayout& layout() const { return tools_.model.layout(weights_.block); }
  void solve_group(std::int64_t group, QuantizedBlock& result);

  const Tools& tools_;
  const BlockWeights& weights_;
  DecoderBlock& block_;
  KeptInputs& kept_;
  std::vector<std::vector<float>> maxima_;  ///< of each step's input
};

}  // namespace gptq
