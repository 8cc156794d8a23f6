#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "comm/device_collectives.h"
#include "model/architectures.h"
#include "pipeline/activations.h"
#include "pipeline/phase_clock.h"
#include "pipeline/safe_point.h"
#include "quant/factor.h"
#include "quant/hessian.h"
#include "quant/quantized_layer.h"
#include "quant/recipe.h"

namespace gptq {

/// A layer chosen for quantization: its place in the model and its original weight.
struct LayerToQuantize {
  std::string module;                       ///< full name
  std::string name;                         ///< inside the block
  const HostTensor* weight = nullptr;       ///< (out, in)
  const LinearWeights* prepared = nullptr;  ///< the same where it computes; null: not there
};

struct SolvedStage {
  std::vector<QuantizedLayer> layers;       ///< in the order asked for, complete on every rank
  std::vector<LayerStatistics> statistics;  ///< likewise
};

/// Quantizes the layers of one stage group together: exact Hessian sum over all ranks, one factor, rows over
/// all ranks.
class StageSolver {
 public:
  StageSolver(Backend& backend, Communicator& comm, DeviceCollectives& device_comm, const Recipe& recipe,
              std::int64_t total_tokens, std::int64_t total_samples, PhaseClock& phases);

  /// Called with this rank's part of the sum and the chunks in it, by all ranks the same number of times.
  using OnRound = std::function<void(const HessianSum& sum, const std::vector<std::int64_t>& chunks)>;

  /// H of the group's input. maximum: this rank's column magnitudes of x over its own chunks. before: what an
  /// earlier attempt has summed. The chunks are summed in a few rounds, with a call of on_round between them.
  /// In the last round, where the collectives can work beside the kernels, one range of panels after the
  /// other goes through all its chunks, and is summed over the ranks while the next is multiplied; the time
  /// of that counts as "hessian", what is left of it afterwards as "reduce".
  HessianSum accumulate(Activations& activations, std::int64_t width, std::vector<float> maximum,
                        PartialSum before, const OnRound& on_round);
  /// Damps and factors on the root, then shares the factor.
  StageFactor factor(const HessianSum& sum);
  /// The factor of round-to-nearest: no Hessian at all.
  StageFactor no_factor(std::int64_t width) const;
  SolvedStage solve(const StageFactor& factor, const std::vector<LayerToQuantize>& layers,
                    std::int64_t block);

 private:
  void add_chunks(Activations& activations, const std::vector<std::size_t>& positions,
                  std::span<const PanelRange> ranges, const HessianSum& sum);
  void start_sums(std::span<const PanelRange> ranges, const HessianSum& sum);
  SolvedRows solve_own_rows(const StageFactor& factor, const std::vector<LayerToQuantize>& layers);
  LayerStatistics statistics(const LayerToQuantize& layer, const StageFactor& factor,
                             std::int64_t block) const;

  Backend& backend_;
  Communicator& comm_;
  DeviceCollectives& device_comm_;
  const Recipe& recipe_;
  std::int64_t total_tokens_;
  std::int64_t total_samples_;
  PhaseClock& phases_;
};

}  // namespace gptq
