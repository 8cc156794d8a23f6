#pragma once

#include "model/block_layers.h"

namespace gptq {

/// The MLP of one block, between the norm in front and its last linear. Private to DecoderBlock.
class MlpStep {
 public:
  /// Borrows names.
  MlpStep(const Architecture& names, const ModelConfig& config)
      : names_(names), activation_(config.activation), inner_(config.intermediate_size) {}

  /// In scratch memory; gate: empty for a plain MLP.
  struct Inner {
    Matrix gate, up;
  };
  /// x is not needed any more afterwards.
  Inner project(const BlockLayers& layers, const Batch& batch, const Matrix& x) const;
  /// out: (rows, intermediate_size).
  void activate(const BlockLayers& layers, const Inner& inner, const Matrix& out) const;

 private:
  const Architecture& names_;
  Activation activation_;
  std::int64_t inner_;
};

}  // namespace gptq
