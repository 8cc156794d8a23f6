#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "model/positions.h"
#include "model/weights.h"

namespace gptq {

/// The forward pass of one transformer block, step by step (BlockLayout). The state between two steps is the
/// pair (hidden, x): the residual stream (rows, hidden) in f32 and the next step's input (rows, step_width)
/// in the compute type. That pair is all a restart needs.
///
///     enter(hidden → x0);  advance(0: x0 → x1);  …  advance(steps - 1: x → hidden)
///
/// Weights may be exchanged between steps: set_linear() after a layer is quantized makes advance() use the
/// new ones.
class DecoderBlock {
 public:
  /// model and positions must outlive the block; positions cover the longest sample.
  DecoderBlock(Backend& backend, const ModelWeights& model, const BlockWeights& weights,
               const DevicePositions& positions, DType compute);
  ~DecoderBlock();

  const BlockLayout& layout() const;
  std::int64_t steps() const { return static_cast<std::int64_t>(layout().steps.size()); }
  std::int64_t step_width(std::int64_t step) const;
  /// Whether advance(step) adds to the residual stream; the other steps do not look at it.
  bool uses_hidden(std::int64_t step) const;

  /// x0 = the first step's input. x0: (rows, step_width(0)).
  void enter(const Batch& batch, const Matrix& hidden, const Matrix& x0);
  /// Applies the step's layers to x and produces the next step's input; after the last step x_next is unused
  /// (pass
  /// {}). x_next may begin where x does, in whatever shape, or lie apart from it. hidden is updated in place
  /// by the steps that write to the residual stream.
  void advance(std::int64_t step, const Batch& batch, const Matrix& hidden, const Matrix& x,
               const Matrix& x_next);
  /// The present weights of a linear ("self_attn.q_proj").
  const LinearWeights& linear(const std::string& name) const;
  /// Replaces the weight of a linear ("self_attn.q_proj") by this one; its bias stays.
  void set_linear(const std::string& name, const QuantizedWeights& weight);
  /// The same block; weights are shared until set_linear() replaces them in one of the two.
  std::unique_ptr<DecoderBlock> copy() const;
  /// Whole block at once.
  void forward(const Batch& batch, const Matrix& hidden);

 private:
  struct State;
  explicit DecoderBlock(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace gptq
