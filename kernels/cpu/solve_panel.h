#pragma once

#include "kernels/cpu/row_panel.h"
#include "kernels/cpu/solve_plan.h"

namespace gptq {

/// Solves 64 rows at a time; owns the memory for it. One object a thread.
class PanelSolver {
 public:
  explicit PanelSolver(const SolvePlan& plan);

  /// Some rows of `part` into the same rows of `result`.
  void solve(const RowsToSolve& part, const RowPanel& rows, QuantizedRows& result);

 private:
  void load_weights(const Matrix& w, const RowPanel& rows);
  void fix_scales();
  void solve_batch(std::size_t index);
  void project(std::size_t index, bool with_norm);
  void update_values(std::size_t index);
  void search_ahead(std::size_t index, const SolveSegment& segment);
  void search(const float* values, const float* weight, std::int64_t columns, std::int32_t group);
  void quantize(std::size_t index, const SolveSegment& segment);
  void store(const RowPanel& rows, QuantizedRows& result) const;

  const SolvePlan& plan_;
  const SolveTable& table_;
  bool search_scales_ = true;  ///< false: this panel's scales were given
  // Panels: (columns, 64), columns in visiting order.
  std::vector<float> w_;           ///< original weights; dead columns 0
  std::vector<float> difference_;  ///< w - q of the columns done
  std::vector<std::uint8_t> codes_;
  std::vector<float> scale_, zero_;  ///< (groups, 64)
  // Panels of one batch.
  std::vector<float> values_;     ///< V, up-to-date weights
  std::vector<float> errors_;     ///< (v - q) / U_jj
  std::vector<float> product_;    ///< (W_P - Q_P) R_{P,B}
  std::vector<float> projected_;  ///< (W R)_B
  std::vector<float> packed_;
  std::vector<float> ahead_;  ///< values of one wide or fixed group
  std::vector<float> ahead_weight_;
  std::vector<float> search_scratch_;
  double loss_[kSolveRows], distance_[kSolveRows], norm_[kSolveRows], weight_norm_[kSolveRows],
      dead_norm_[kSolveRows];
};

}  // namespace gptq
