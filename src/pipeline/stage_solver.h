#pragma once

#include <string>
#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "model/architectures.h"
#include "pipeline/activations.h"
#include "pipeline/phase_clock.h"
#include "quant/factor.h"
#include "quant/hessian.h"
#include "quant/quantized_layer.h"
#include "quant/recipe.h"

namespace gptq {

/// A layer chosen for quantization: its place in the model and its original weight.
struct LayerToQuantize {
  std::string module;                  ///< full name
  std::string name;                    ///< inside the block
  const HostTensor* weight = nullptr;  ///< (out, in)
};

struct SolvedStage {
  std::vector<QuantizedLayer> layers;       ///< in the order asked for, complete on every rank
  std::vector<LayerStatistics> statistics;  ///< likewise
};

/// Quantizes the layers of one stage group together: exact Hessian sum over all ranks, one factor, rows over
/// all ranks.
class StageSolver {
 public:
  StageSolver(Backend& backend, Communicator& comm, const Recipe& recipe, std::int64_t total_tokens,
              std::int64_t total_samples, PhaseClock& phases);

  /// H of the group's input. maximum: this rank's column magnitudes of x over its own chunks.
  HessianSum accumulate(const Activations& activations, std::int64_t width, std::vector<float> maximum);
  /// Damps and factors on the root, then shares the factor.
  StageFactor factor(const HessianSum& sum);
  /// The factor of round-to-nearest: no Hessian at all.
  StageFactor no_factor(std::int64_t width) const;
  SolvedStage solve(const StageFactor& factor, const std::vector<LayerToQuantize>& layers,
                    std::int64_t block);

 private:
  std::vector<QuantizedRows> solve_own_rows(const StageFactor& factor,
                                            const std::vector<LayerToQuantize>& layers,
                                            const std::vector<RowRange>& ranges);

  Backend& backend_;
  Communicator& comm_;
  const Recipe& recipe_;
  std::int64_t total_tokens_;
  std::int64_t total_samples_;
  PhaseClock& phases_;
};

}  // namespace gptq
