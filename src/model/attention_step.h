#pragma once

#include "model/block_layers.h"
#include "model/norm.h"
#include "model/positions.h"

namespace gptq {

/// Attention of one block, between the norm in front and its output projection. Private to DecoderBlock.
class AttentionStep {
 public:
  /// Borrows names and positions.
  AttentionStep(Backend& backend, const Architecture& names, const ModelConfig& config,
                const BlockWeights& weights, const DevicePositions& positions);

  /// Each head's features, heads one behind the other; in scratch memory.
  struct Heads {
    Matrix q, k, v;
  };
  /// x is not needed any more afterwards.
  Heads project(const BlockLayers& layers, const Batch& batch, const Matrix& x) const;
  /// Norms and turns q and k in place; out: (rows, heads · head_dim).
  void attend(const BlockLayers& layers, const Batch& batch, const Heads& heads, const Matrix& out) const;

 private:
  std::shared_ptr<const Norm> head_norm(Backend& backend, const ModelConfig& config,
                                        const BlockWeights& weights, std::string_view module,
                                        std::int64_t heads) const;
  Heads take_apart(const BlockLayers& layers, const Matrix& fused) const;

  const Architecture& names_;
  QkvForm form_;
  AttentionShape shape_;
  const DevicePositions* positions_;
  int rope_;
  std::shared_ptr<const Norm> q_norm_, k_norm_;  ///< null: none
};

}  // namespace gptq
