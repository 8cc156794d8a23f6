#pragma once

#include "io/calibration.h"
#include "model/model_ends.h"
#include "pipeline/activations.h"

namespace gptq {

/// Fills the hidden states with what enters the first block. The embedding tables are in memory only
/// meanwhile.
inline void embed_samples(Backend& backend, const ModelWeights& model, const CalibrationData& data,
                          Activations& activations) {
  if (activations.chunks() == 0) return;
  const TokenEmbedding embedding(backend, model);
  Activations::Use use;
  use.hidden = Activations::Use::written;
  activations.visit(use, [&](std::size_t i, const Matrix& hidden, const Matrix&, const Matrix&) {
    embedding.run(activations.batch(i), activations.ids(i, data), hidden);
  });
  backend.synchronize();
}

}  // namespace gptq
