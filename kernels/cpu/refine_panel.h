#pragma once

#include <array>
#include <utility>

#include "kernels/cpu/isa/refine_panel.h"
#include "kernels/cpu/refine_plan.h"
#include "kernels/cpu/row_panel.h"

namespace gptq {

/// Refines 64 rows at a time; owns the memory for it. One object a thread.
///
/// Along with the codes it keeps g = (w−q)·H up to date for all columns: a batch's columns are visited with
/// the batch's block of H, and one product then carries their steps to all of g.
class PanelRefiner {
 public:
  explicit PanelRefiner(const RefinePlan& plan);

  /// Some rows of w, whose codes and so on are the same rows of `result`.
  void refine(const Matrix& w, const RowPanel& rows, QuantizedRows& result);

 private:
  using RowSums = std::array<double, kSolveRows>;
  struct Figures {
    RowSums objective;  ///< (w−q) H (w−q)ᵀ
    RowSums scale;      ///< Σ (w−q)_j² H_jj
    RowSums distance;   ///< |w−q|²
  };

  void load(const Matrix& w, const RowPanel& rows, const QuantizedRows& result);
  Figures measure(bool with_gradient);
  void multiply_by_h(const float* x, std::int64_t first, std::int64_t last, std::int64_t to,
                     std::int64_t columns, float* c) const;
  bool sweep(bool last);
  bool rescale_ahead(std::size_t group);
  std::pair<const float*, std::int64_t> part_of_h(std::int64_t first, std::int64_t count,
                                                  const std::int32_t* places, std::int64_t width);
  void rescale_here(const SolveSegment& segment, std::size_t batch, float* step);
  void descend(const SolveSegment& segment, std::size_t batch);
  bool visit_batch(std::size_t index, bool last);
  void find_units(std::int64_t position, float* units) const;
  void find_step(std::int64_t group, const RowSums& gain, const RowSums& curve, float* step);
  void add_to_gradient(const SolveBatch& batch, std::int64_t first_column);
  void keep_better(const Figures& after, Figures& figures);
  void store(const RowPanel& rows, const RowSums& start, const Figures& figures, QuantizedRows& result) const;

  const RefinePlan& plan_;
  const SolveTable& table_;
  const RefineTable& loops_;
  // Panels: (columns, 64), columns in visiting order.
  std::vector<float> w_;  ///< original weights; dead columns 0
  std::vector<float> difference_, gradient_;
  std::vector<std::uint8_t> codes_, old_codes_;
  std::vector<float> scale_, zero_, old_scale_;  ///< (groups, 64)
  std::vector<float> values_;                    ///< the gradient of one batch, as its columns are visited
  std::vector<float> steps_;                     ///< of one batch: new value − old value
  std::vector<float> units_, product_;           ///< of one group, or of all columns if groups are wide
  std::vector<float> block_;
  RowSums dead_norm_;
};

}  // namespace gptq
