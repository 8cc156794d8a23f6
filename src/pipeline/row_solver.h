#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "comm/device_collectives.h"
#include "pipeline/layer_to_quantize.h"
#include "pipeline/phase_clock.h"
#include "pipeline/safe_point.h"
#include "quant/factor.h"
#include "quant/recipe.h"

namespace gptq {

/// The factors of one stage group: one for each way of ordering and damping its columns that some layer asks
/// for. Damped and factored on the root, then shared. Collective.
class StageFactors {
 public:
  /// too_thin: the sums are not to be used, so everything falls back to round-to-nearest.
  StageFactors(Backend& backend, Communicator& comm, DeviceCollectives& device_comm, const StageSums& sums,
               bool too_thin, PhaseClock& phases)
      : backend_(backend),
        comm_(comm),
        device_comm_(device_comm),
        sums_(sums),
        too_thin_(too_thin),
        phases_(phases) {}

  bool has_reference() const { return sums_.cross.rows > 0; }
  CorrectionTarget target() const { return sums_.cross.target; }
  StageFactor& of(const QuantizationSection& section);
  /// The same with H itself.
  StageFactor& with_hessian(const QuantizationSection& section);
  /// The same with C.
  StageFactor& with_cross(const QuantizationSection& section);

 private:
  StageFactor make(const QuantizationSection& section);

  Backend& backend_;
  Communicator& comm_;
  DeviceCollectives& device_comm_;
  const StageSums& sums_;
  bool too_thin_;
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
