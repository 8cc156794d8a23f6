#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/layer_to_quantize.h"
#include "pipeline/phase_clock.h"
#include "pipeline/safe_point.h"
#include "pipeline/team.h"
#include "quant/factor.h"
#include "quant/recipe.h"

namespace gptq {

/// What every rank of a team must know of a stage group's sums before it can help.
struct StageFacts {
  std::int64_t columns = 0;
  bool too_thin = false;       ///< the sums are not to be used, so everything falls back to round-to-nearest
  bool has_reference = false;  ///< there is C
  CorrectionTarget target = CorrectionTarget::output;
  bool judged = false;  ///< samples are held out
};

/// The factors of one stage group: one for each way of ordering and damping its columns that some layer asks
/// for. Damped and factored on the team's root, then shared. H and C as matrices are made by every rank from
/// its sums, or where some have none by the root, which shares them. Collective.
class StageFactors {
 public:
  /// sums: null on a rank that helps.
  StageFactors(Backend& backend, const Team& team, const StageSums* sums, const StageFacts& facts,
               PhaseClock& phases)
      : backend_(backend), team_(team), sums_(sums), facts_(facts), phases_(phases) {}

  const StageFacts& facts() const { return facts_; }
  StageFactor& of(const QuantizationSection& section);
  /// The same with H itself.
  StageFactor& with_hessian(const QuantizationSection& section);
  /// The same with C.
  StageFactor& with_cross(const QuantizationSection& section);

 private:
  StageFactor make(const QuantizationSection& section);
  template <typename Expand>
  void make_matrix(DeviceBuffer& matrix, Expand&& expand);

  Backend& backend_;
  const Team& team_;
  const StageSums* sums_;
  StageFacts facts_;
  PhaseClock& phases_;
  std::vector<std::pair<QuantizationSection, std::unique_ptr<StageFactor>>> made_;
};

/// A way of choosing a layer's codes.
struct Variant {
  bool corrected = false;  ///< weights moved to make up for the errors before them
  bool refined = false;    ///< coordinate descent, and the best of the candidates

  std::string name() const;
};

/// The ways to be compared, each a step beyond the one before; the last is the one that the section asks for,
/// and the only one unless there is a judge.
std::vector<Variant> variants_of(const QuantizationSection& section, bool has_reference, bool judged);

/// Some rows of layers that have one section in common.
class RowSolver {
 public:
  RowSolver(Backend& backend, const QuantizationSection& section, StageFactors& factors, PhaseClock& phases);

  /// parts: rows of layers; corrected: whether the correction is meant for each of them. One result a part.
  std::vector<QuantizedRows> solve(const std::vector<RowsToSolve>& parts, const std::vector<bool>& corrected,
                                   const Variant& variant);

 private:
  std::vector<RowsToSolve> correct(const std::vector<RowsToSolve>& parts, const std::vector<bool>& corrected);
  std::vector<HostTensor> corrected_weights(std::vector<RowsToSolve> parts);
  std::vector<QuantizedRows> solve_candidate(const std::vector<RowsToSolve>& parts,
                                             const QuantizationSection& candidate, bool refined);

  Backend& backend_;
  const QuantizationSection& section_;
  StageFactors& factors_;
  PhaseClock& phases_;
  std::vector<HostTensor> targets_;  ///< corrected weights, made once for all variants
};

/// Each row of `best` becomes the other one where that has the smaller exact loss.
void keep_better_rows(const std::vector<QuantizedRows>& other, std::int64_t columns,
                      std::vector<QuantizedRows>& best);

}  // namespace gptq
