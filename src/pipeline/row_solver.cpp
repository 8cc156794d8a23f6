#include "pipeline/row_solver.h"

#include <algorithm>

#include "base/error.h"
#include "quant/candidates.h"
#include "quant/column_order.h"

namespace gptq {
namespace {

template <typename T>
void copy_row(const std::vector<T>& from, std::size_t row, std::size_t width, std::vector<T>& to) {
  std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(row * width), width,
              to.begin() + static_cast<std::ptrdiff_t>(row * width));
}

void keep_better_rows(const QuantizedRows& other, std::size_t columns, QuantizedRows& best) {
  if (best.rows == 0) return;
  const std::size_t groups = best.scales.size() / static_cast<std::size_t>(best.rows);
  for (std::size_t row = 0; row < static_cast<std::size_t>(best.rows); ++row) {
    if (!(other.output_error[row] < best.output_error[row])) continue;
    copy_row(other.codes, row, columns, best.codes);
    copy_row(other.scales, row, groups, best.scales);
    copy_row(other.zeros, row, groups, best.zeros);
    best.solve_loss[row] = other.solve_loss[row];
    best.solve_error[row] = other.solve_error[row];
    best.output_error[row] = other.output_error[row];
    best.weight_error[row] = other.weight_error[row];
  }
}

}  // namespace

void keep_better_rows(const std::vector<QuantizedRows>& other, std::int64_t columns,
                      std::vector<QuantizedRows>& best) {
  GPTQ_EXPECT(other.size() == best.size());
  for (std::size_t part = 0; part < best.size(); ++part)
    keep_better_rows(other[part], static_cast<std::size_t>(columns), best[part]);
}

// ---- factors

StageFactor StageFactors::make(const QuantizationSection& section) {
  StageFactor factor;
  if (facts_.too_thin) {
    factor.columns = natural_columns(facts_.columns, section);
    factor.fallback = true;
    return factor;
  }
  std::vector<std::byte> bytes;
  {
    const auto scope = phases_.in("factor");
    run_on(team_.comm, team_.root, [&] {
      factor = factor_hessian(backend_, sums_->hessian, section);
      bytes = serialize(factor);
    });
  }
  if (team_.comm.size() == 1) return factor;
  const auto scope = phases_.in("reduce");
  auto size = static_cast<std::int64_t>(bytes.size());
  team_.comm.broadcast(&size, sizeof(size), team_.root);
  bytes.resize(static_cast<std::size_t>(size));
  team_.comm.broadcast(bytes.data(), bytes.size(), team_.root);
  if (!team_.is_root()) {
    factor = deserialize_factor(bytes);
    if (!factor.fallback) factor.r = backend_.allocate(factor_bytes(facts_.columns));
  }
  if (!factor.fallback) team_.device.broadcast(factor.r.data(), factor.r.size(), team_.root);
  team_.device.wait();
  return factor;
}

StageFactor& StageFactors::of(const QuantizationSection& section) {
  const auto found = std::find_if(made_.begin(), made_.end(),
                                  [&](const auto& entry) { return same_columns(entry.first, section); });
  if (found != made_.end()) return *found->second;
  made_.emplace_back(section, std::make_unique<StageFactor>(make(section)));
  return *made_.back().second;
}

/// Made once, from the sums or by the root for all.
template <typename Expand>
void StageFactors::make_matrix(DeviceBuffer& matrix, Expand&& expand) {
  if (matrix.size() > 0) return;
  if (!team_.has_helpers() || team_.is_root()) {
    const auto scope = phases_.in("factor");
    expand();
  }
  if (!team_.has_helpers()) return;
  const auto scope = phases_.in("reduce");
  auto size = static_cast<std::int64_t>(matrix.size());
  team_.comm.broadcast(&size, sizeof(size), team_.root);
  if (!team_.is_root()) matrix = backend_.allocate(static_cast<std::size_t>(size));
  team_.device.broadcast(matrix.data(), matrix.size(), team_.root);
  team_.device.wait();
}

StageFactor& StageFactors::with_hessian(const QuantizationSection& section) {
  StageFactor& factor = of(section);
  make_matrix(factor.hessian, [&] { expand_hessian(backend_, sums_->hessian, factor); });
  return factor;
}

StageFactor& StageFactors::with_cross(const QuantizationSection& section) {
  StageFactor& factor = of(section);
  make_matrix(factor.cross, [&] { expand_cross(backend_, sums_->hessian, sums_->cross, factor); });
  return factor;
}

// ---- variants

std::string Variant::name() const {
  if (corrected && refined) return "corrected, refined";
  return corrected ? "corrected" : refined ? "refined" : "plain";
}

std::vector<Variant> variants_of(const QuantizationSection& section, bool has_reference, bool judged) {
  const bool corrected = has_reference && section.correction_alpha > 0;
  const bool refined = section.refine_sweeps > 0 || !section.best_of.empty();
  const Variant wanted{corrected, refined};
  if (!judged) return {wanted};
  std::vector<Variant> variants{{false, false}};
  if (corrected) variants.push_back({true, false});
  if (refined) variants.push_back(wanted);
  return variants;
}

// ---- rows

RowSolver::RowSolver(Backend& backend, const QuantizationSection& section, StageFactors& factors,
                     PhaseClock& phases)
    : backend_(backend), section_(section), factors_(factors), phases_(phases) {}

std::vector<HostTensor> RowSolver::corrected_weights(std::vector<RowsToSolve> parts) {
  const StageFactor& factor = factors_.with_cross(section_);
  const float* m = factor.cross.as<float>();
  if (factors_.facts().target == CorrectionTarget::residual) {
    for (RowsToSolve& part : parts) part.wanted = m + part.first_row * factor.columns.n;
    m = factors_.with_hessian(section_).hessian.as<float>();
  }
  const auto scope = phases_.in("correct");
  return backend_.kernels().correct_rows(parts, factor.columns, m, factor.factor(),
                                         section_.correction_alpha);
}

/// The parts with corrected weights in place of those for which the correction is meant.
std::vector<RowsToSolve> RowSolver::correct(const std::vector<RowsToSolve>& parts,
                                            const std::vector<bool>& corrected) {
  std::vector<RowsToSolve> chosen;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (corrected[i]) chosen.push_back(parts[i]);
  }
  if (chosen.empty()) return parts;
  if (targets_.empty()) targets_ = corrected_weights(std::move(chosen));
  std::vector<RowsToSolve> result = parts;
  std::size_t next = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (!corrected[i]) continue;
    const HostTensor& target = targets_[next++];
    const std::int64_t columns = parts[i].weight.cols;
    result[i].weight = {target.storage.data(), DType::f32, parts[i].weight.rows, columns, columns};
    result[i].prepared = nullptr;  // holds the original weights
  }
  return result;
}

std::vector<QuantizedRows> RowSolver::solve_candidate(const std::vector<RowsToSolve>& parts,
                                                      const QuantizationSection& candidate, bool refined) {
  StageFactor& factor = factors_.of(candidate);
  const SolveOptions options = solve_options(candidate);
  std::vector<QuantizedRows> rows;
  {
    const auto scope = phases_.in("solve");
    rows = backend_.kernels().solve_rows(parts, factor.columns, factor.factor(), factor.damping, options);
  }
  if (!refined || candidate.refine_sweeps == 0 || factor.fallback) return rows;
  factors_.with_hessian(candidate);
  const auto scope = phases_.in("refine");
  backend_.kernels().refine_rows(parts, factor.columns, factor.hessian.as<float>(), options,
                                 {candidate.refine_sweeps, candidate.refine_scales && candidate.per_channel},
                                 rows);
  return rows;
}

std::vector<QuantizedRows> RowSolver::solve(const std::vector<RowsToSolve>& parts,
                                            const std::vector<bool>& corrected, const Variant& variant) {
  const bool usable = !factors_.of(section_).fallback;
  const std::vector<RowsToSolve> targets = variant.corrected && usable ? correct(parts, corrected) : parts;
  std::vector<QuantizedRows> best = solve_candidate(targets, section_, variant.refined);
  if (!variant.refined || !usable) return best;
  const std::vector<QuantizationSection> candidates = candidates_of(section_);
  for (std::size_t i = 1; i < candidates.size(); ++i) {
    if (factors_.of(candidates[i]).fallback) continue;
    keep_better_rows(solve_candidate(targets, candidates[i], true), factors_.of(section_).columns.n, best);
  }
  return best;
}

}  // namespace gptq
