#pragma once

#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "io/calibration.h"
#include "io/report.h"
#include "pipeline/activations.h"
#include "pipeline/phase_clock.h"
#include "pipeline/window_losses.h"

namespace gptq {

/// What the whole quantized model makes of the held-out samples, beside the source model: both streams have
/// left the last block.
class EndToEnd {
 public:
  /// reference: the full-precision stream of all samples, or of the held-out ones alone. Borrows everything.
  EndToEnd(const ModelWeights& model, const CalibrationData& data, Backend& backend, Communicator& comm,
           Activations& quantized, Activations& reference, PhaseClock& phases);

  /// head: the quantized one; null: the model keeps its own. Sums are added in the order of the samples: the
  /// same figures on any number of ranks. Collective.
  HeldOutFigures measure(const QuantizedLayer* head);

 private:
  struct Sums {
    double error = 0, norm = 0;
  };
  std::vector<WindowLoss> losses(Activations& stream, const QuantizedLayer* head);
  std::vector<Sums> errors();

  const ModelWeights& model_;
  const CalibrationData& data_;
  Backend& backend_;
  Communicator& comm_;
  Activations& quantized_;
  Activations& reference_;
  PhaseClock& phases_;
};

}  // namespace gptq
