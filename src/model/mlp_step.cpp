#include "model/mlp_step.h"

namespace gptq {

MlpStep::Inner MlpStep::project(const BlockLayers& layers, const Batch& batch, const Matrix& x) const {
  Inner inner;
  if (names_.mlp_form == MlpForm::gated_fused) {
    const Matrix both = layers.scratch(BlockSlot::up, x.rows, 2 * inner_);
    layers.apply(names_.up, batch, x, both);
    return {both.cols_from(0, inner_), both.cols_from(inner_, inner_)};
  }
  if (names_.mlp_form == MlpForm::gated) {
    inner.gate = layers.scratch(BlockSlot::gate, x.rows, inner_);
    layers.apply(names_.gate, batch, x, inner.gate);
  }
  inner.up = layers.scratch(BlockSlot::up, x.rows, inner_);
  layers.apply(names_.up, batch, x, inner.up);
  return inner;
}

void MlpStep::activate(const BlockLayers& layers, const Inner& inner, const Matrix& out) const {
  if (names_.mlp_form == MlpForm::plain) return layers.kernels().activation(activation_, inner.up, out);
  layers.kernels().gated_activation(activation_, inner.gate, inner.up, out);
}

}  // namespace gptq
