#pragma once

#include <functional>
#include <vector>

#include "pipeline/held_out.h"
#include "pipeline/row_solver.h"

namespace gptq {

/// Quantizes the layers of one stage group from its sums: factors on the root, rows over all ranks. Layers
/// with the same values of the recipe go together.
class StageSolver {
 public:
  /// total_tokens, total_samples: in the Hessians, of all ranks; with fewer tokens than min_tokens layers are
  /// rounded to nearest.
  StageSolver(Backend& backend, Communicator& comm, DeviceCollectives& device_comm, const Recipe& recipe,
              std::int64_t total_tokens, std::int64_t total_samples, std::int64_t min_tokens,
              PhaseClock& phases);

  /// judge: null where nothing is held out. Collective.
  SolvedStage solve(const StageSums& sums, const std::vector<LayerToQuantize>& layers, std::int64_t block,
                    HeldOutJudge* judge);
  /// Without a Hessian. Collective.
  SolvedStage round_to_nearest(const std::vector<LayerToQuantize>& layers, std::int64_t block);

 private:
  /// Layers of the stage group with equal values of the recipe.
  struct LayerClass {
    QuantizationSection section;
    std::vector<std::size_t> members;
    std::vector<LayerToQuantize> layers;
    std::vector<bool> corrected;  ///< is the correction meant for it?
  };
  using SolveOwn = std::function<std::vector<QuantizedRows>(const std::vector<RowsToSolve>& parts,
                                                            const std::vector<RowRange>& ranges)>;

  std::vector<LayerClass> classes_of(const std::vector<LayerToQuantize>& layers) const;
  SolvedStage class_by_class(const std::vector<LayerToQuantize>& layers,
                             const std::function<SolvedStage(const LayerClass&)>& solve) const;
  SolvedStage solve_class(const LayerClass& members, StageFactors& factors, std::int64_t block,
                          HeldOutJudge* judge);
  SolvedStage solve_over_ranks(const LayerClass& members, const StageFactor& factor, std::int64_t block,
                               const SolveOwn& solve_own);
  std::vector<SolvedRows> gather(SolvedRows own);
  LayerStatistics statistics(const LayerToQuantize& layer, const QuantizationSection& section,
                             const StageFactor& factor, std::int64_t block) const;

  Backend& backend_;
  Communicator& comm_;
  DeviceCollectives& device_comm_;
  const Recipe& recipe_;
  std::int64_t total_tokens_;
  std::int64_t total_samples_;
  std::int64_t min_tokens_;
  PhaseClock& phases_;
};

}  // namespace gptq
