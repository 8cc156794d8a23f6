#pragma once

#include "io/calibration.h"
#include "model/weights.h"
#include "pipeline/activations.h"

namespace gptq {

/// Fills the hidden states with the samples' token embeddings. The embedding table is in memory only
/// meanwhile.
inline void embed_samples(const ModelWeights& model, const CalibrationData& data, Kernels& kernels,
                          Activations& activations) {
  const HostTensor table = model.load_embedding();
  for (std::size_t i = 0; i < activations.chunks(); ++i) {
    kernels.embed(activations.ids(i, data), table.matrix(), activations.hidden(i));
  }
}

}  // namespace gptq
