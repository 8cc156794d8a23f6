#pragma once

#include "backend/device_matrix.h"
#include "io/calibration.h"
#include "model/weights.h"
#include "pipeline/activations.h"

namespace gptq {

/// Fills the hidden states with the samples' token embeddings. The embedding table is in memory only
/// meanwhile.
inline void embed_samples(Backend& backend, const ModelWeights& model, const CalibrationData& data,
                          Activations& activations) {
  if (activations.chunks() == 0) return;
  const HostTensor table = model.load_embedding();
  const DeviceMatrix on_device = DeviceMatrix::view_or_copy(backend, table);
  Activations::Use use;
  use.hidden = Activations::Use::written;
  activations.visit(use, [&](std::size_t i, const Matrix& hidden, const Matrix&, const Matrix&) {
    backend.kernels().embed(activations.ids(i, data), on_device.matrix(), hidden);
  });
  backend.synchronize();
}

}  // namespace gptq
