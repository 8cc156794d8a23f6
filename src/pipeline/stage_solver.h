#pragma once

#include <functional>
#include <vector>

#include "pipeline/held_out.h"
#include "pipeline/own_rows.h"
#include "pipeline/row_solver.h"

namespace gptq {

/// Quantizes the layers of one stage group from its sums: factors on the team's root, rows over all its
/// ranks. Layers with the same values of the recipe go together. Collective over the team: the ranks that
/// hold the block call solve(), the others help() with the same layers.
class StageSolver {
 public:
  /// total_tokens, total_samples: in the Hessians, of all ranks; with fewer tokens than min_tokens layers are
  /// rounded to nearest.
  StageSolver(Backend& backend, const Team& team, const Recipe& recipe, std::int64_t total_tokens,
              std::int64_t total_samples, std::int64_t min_tokens, PhaseClock& phases);

  /// judge: null where nothing is held out; collective over the ranks that hold the block.
  SolvedStage solve(const StageSums& sums, const std::vector<LayerToQuantize>& layers, std::int64_t block,
                    HeldOutJudge* judge);
  /// Solves this rank's part of what others solve(). Layers have no weights, but sizes.
  SolvedStage help(const std::vector<LayerToQuantize>& layers, std::int64_t block);
  /// Without a Hessian, by ranks that all have the weights.
  SolvedStage round_to_nearest(const std::vector<LayerToQuantize>& layers, std::int64_t block);

 private:
  /// Layers of the stage group with equal values of the recipe.
  struct LayerClass {
    QuantizationSection section;
    std::vector<std::size_t> members;
    std::vector<LayerToQuantize> layers;
    std::vector<bool> corrected;  ///< is the correction meant for it?
  };
  /// Solves rows that lie in this rank.
  using SolveOwn = std::function<std::vector<QuantizedRows>(const OwnRows& own)>;

  std::vector<LayerClass> classes_of(const std::vector<LayerToQuantize>& layers) const;
  SolvedStage class_by_class(const std::vector<LayerToQuantize>& layers,
                             const std::function<SolvedStage(const LayerClass&)>& solve) const;
  SolvedStage solve_all(const StageSums* sums, StageFacts facts, const std::vector<LayerToQuantize>& layers,
                        std::int64_t block, HeldOutJudge* judge);
  void share_facts(StageFacts& facts) const;
  SolvedStage solve_class(const LayerClass& members, StageFactors& factors, std::int64_t block,
                          HeldOutJudge* judge);
  void share_matrices(const LayerClass& members, StageFactors& factors, const Variant& variant) const;
  double held_out_error(const LayerToQuantize& layer, const QuantizedLayer& candidate, HeldOutJudge* judge);
  OwnRows own_rows(const LayerClass& members, const StageFactor& factor) const;
  SolvedStage solve_over_ranks(const LayerClass& members, const StageFactor& factor, const OwnRows& own,
                               std::int64_t block, const SolveOwn& solve_own);
  std::vector<SolvedRows> gather(SolvedRows own);
  LayerStatistics statistics(const LayerToQuantize& layer, const QuantizationSection& section,
                             const StageFactor& factor, std::int64_t block) const;

  Backend& backend_;
  Team team_;
  const Recipe& recipe_;
  std::int64_t total_tokens_;
  std::int64_t total_samples_;
  std::int64_t min_tokens_;
  PhaseClock& phases_;
};

}  // namespace gptq
