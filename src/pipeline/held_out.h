#pragma once

#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "pipeline/layer_to_quantize.h"
#include "pipeline/phase_clock.h"
#include "pipeline/stage_sums.h"

namespace gptq {

/// What a layer's output is off on samples that no Hessian has seen: the guard against codes that fit the
/// calibration data only.
class HeldOutJudge {
 public:
  /// input: the stage group's. Borrows everything.
  HeldOutJudge(Backend& backend, Communicator& comm, const StageInput& input, DType compute,
               PhaseClock& phases);

  /// Σ|y − Q x̃|² / Σ|y|² over the held-out samples of all ranks, added in their order. y: W x̃; where layers
  /// are corrected what that aims at: W x with x from the full-precision stream, or the output that leads to
  /// the full-precision residual stream. Collective.
  double relative_error(const LayerToQuantize& layer, const QuantizedLayer& candidate);

 private:
  struct Sums {
    double error = 0, norm = 0;
  };
  std::vector<Sums> of_own_samples(const LayerToQuantize& layer, const LinearWeights& candidate);

  Backend& backend_;
  Communicator& comm_;
  const StageInput& input_;
  DType compute_;
  PhaseClock& phases_;
  std::vector<std::size_t> chunks_;
};

}  // namespace gptq
