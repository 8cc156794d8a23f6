#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "model/decoder_block.h"
#include "pipeline/kept_inputs.h"

namespace gptq {

/// Takes all chunks of a stream, in order, each through the whole of a block's original weights, and keeps
/// every step's input. The same kernels on the same chunks as step by step: the same bits. Borrows
/// everything.
class ReferencePass {
 public:
  /// weighs: rows of inputs of steps that write to the residual stream are kept weighed (token_weight
  /// residual), but for held-out chunks. norm_eps: of the model's norms.
  ReferencePass(Backend& backend, std::int64_t block_index, DecoderBlock& block, Activations& stream,
                KeptInputs& kept, bool weighs, float norm_eps);

  /// One visit of the stream.
  void run();
  /// Of each step's input as it is to be summed, the columns' largest magnitudes over this rank's samples.
  /// Waits for the kernels. Throws NumericalError naming the sample where an input is not finite.
  std::vector<std::vector<float>> maxima();

 private:
  using OnInputs = std::function<void(const std::vector<Matrix>& inputs)>;
  void with_inputs(std::size_t chunk, std::vector<Matrix>& inputs, const OnInputs& use);
  void pass(std::size_t chunk, const Matrix& hidden, const std::vector<Matrix>& inputs);
  Matrix keep(std::int64_t step, std::size_t chunk, const Matrix& hidden, const Matrix& x);
  std::vector<float> downloaded(const DeviceBuffer& maximum) const;

  Backend& backend_;
  std::int64_t block_index_;
  DecoderBlock& block_;
  Activations& stream_;
  KeptInputs& kept_;
  bool weighs_;
  float norm_eps_;
  std::vector<DeviceBuffer> seen_;    ///< of each step: maxima of what the block computed
  std::vector<DeviceBuffer> summed_;  ///< of what is summed, where that is something else
};

}  // namespace gptq
