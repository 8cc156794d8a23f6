#pragma once

#include <functional>
#include <string>

#include "model/architectures.h"
#include "model/rotation.h"

namespace gptq {

struct BlockWeights;
class SourceTensors;

/// What a rotated model's tensors are rounded to.
struct RotationRounding {
  /// Whether the linear of this full name will be quantized: its turned weight stays f32. All others, kept in
  /// the output, get the source's type, so that calibration sees what will be loaded.
  std::function<bool(const std::string& module)> quantized;
  bool half_biases =
      true;  ///< the biases of quantized linears are stored as fp16; false: in the source's type
};

/// A decoder's weights in rotated form: the same function of token ids, with outliers spread (the merged
/// rotations R1 and R2 of QuaRot, Ashkboos et al. 2024, and SpinQuant, Liu et al. 2024).
/// R1: norm weights are folded into the linears that follow and become ones, so that a norm commutes with the
/// orthogonal Θ; then the residual stream is turned: embedding·Θ, W·diag(norm)·Θ for q, k, v, gate, up and
/// the head, Θᵀ·W and Θᵀ·bias for o and down. R2: each head's values are turned by the block's R: Rᵀ·W and
/// Rᵀ·bias for v, W·R for o, one R for all heads, since several query heads share a value head.
class ModelRotation {
 public:
  /// Throws UsageError, with the reason, for a model that cannot be turned without changing what it computes:
  /// one that is quantized, whose norms add an offset, of an awkward width, or with tensors whose part in the
  /// forward pass is not known.
  ModelRotation(const ModelConfig& config, const Architecture& architecture, const SourceTensors& tensors,
                RotationRounding rounding);

  /// Tensors as read from the source become those of the rotated model. Throws InputError for a value that
  /// becomes too large for its type.
  void turn(BlockWeights& weights) const;
  HostTensor turned_embedding(HostTensor table) const;                           ///< (vocab, hidden)
  HostTensor turned_head(HostTensor table, const HostTensor& final_norm) const;  ///< (vocab, hidden)
  static HostTensor folded_norm(HostTensor norm);                                ///< ones

  /// The type in which the linear's weight is handed out.
  DType weight_type(const std::string& module, DType source) const;

 private:
  void turn_layer(const LinearShape& layer, const Rotation& values, BlockWeights& weights) const;
  WeightTurn turn_of(const std::string& layer, const Rotation& values) const;
  HostTensor turned(HostTensor tensor, const WeightTurn& how, DType dtype, const std::string& name) const;

  ModelConfig config_;
  const Architecture& architecture_;
  RotationRounding rounding_;
  Rotation stream_;  ///< Θ
};

}  // namespace gptq
