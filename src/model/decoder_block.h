#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "model/rotary.h"
#include "model/weights.h"

namespace gptq {

/// The forward pass of one transformer block, stage group by stage group. The state between two groups is the
/// pair (hidden, x): the residual stream (rows, hidden) in f32 and the next group's input (rows, in_features)
/// in the compute type. That pair is all a restart needs.
///
///     enter(hidden → x0);  advance(0: x0 → x1);  advance(1: x1 → x2);  advance(2: x2 → x3);  advance(3: x3 →
///     hidden)
///
/// Weights may be exchanged between steps: set_linear() after a layer is quantized makes advance() use the
/// new ones.
class DecoderBlock {
 public:
  /// rotary must outlive the block and cover the longest sample.
  DecoderBlock(Backend& backend, const ModelWeights& model, const BlockWeights& weights,
               const DeviceRotary& rotary, DType compute);
  ~DecoderBlock();

  std::int64_t groups() const;
  std::int64_t group_width(std::int64_t group) const;  ///< in_features of the group

  /// Whether advance(group) adds to the residual stream; the other groups do not look at it.
  bool uses_hidden(std::int64_t group) const { return group % 2 == 1; }

  /// x0 = the first group's input. x0: (rows, group_width(0)).
  void enter(const Batch& batch, const Matrix& hidden, const Matrix& x0);
  /// Applies the group's layers to x and produces the next group's input; after the last group x_next is
  /// unused (pass {}). x_next may lie in x's memory, in whatever shape. hidden is updated in place by the
  /// groups that write to the residual stream.
  void advance(std::int64_t group, const Batch& batch, const Matrix& hidden, const Matrix& x,
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
