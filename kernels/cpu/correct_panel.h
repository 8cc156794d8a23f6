#pragma once

#include "kernels/cpu/isa/refine_panel.h"
#include "kernels/cpu/isa/solve_panel.h"
#include "kernels/cpu/row_panel.h"

namespace gptq {

/// What all panels of one correction share. Borrows its arguments.
class CorrectPlan {
 public:
  CorrectPlan(const SolveColumns& columns, const float* m, const float* r, double alpha);

  /// Columns [first, first + count) of a batch and the two packed inverses of its diagonal block of R.
  struct Batch {
    std::int64_t first, count;
    std::vector<float> packed_inverse;             ///< R_BB^-1
    std::vector<float> packed_inverse_transposed;  ///< R_BB^-T
  };

  const SolveColumns& columns;
  const float* m;
  const float* r;
  double alpha;
  std::vector<Batch> batches;
  std::vector<std::int32_t> position;  ///< position[column]: its place in visiting order
};

/// Corrects 64 rows at a time; owns the memory for it. One object a thread.
class PanelCorrector {
 public:
  explicit PanelCorrector(const CorrectPlan& plan);

  /// Some rows of the part into the same rows of `corrected` (rows, n) floats.
  void correct(const RowsToSolve& part, const RowPanel& rows, float* corrected);

 private:
  void multiply_by_m();
  void subtract_from(const Matrix& wanted, const RowPanel& rows);
  void solve_transposed();
  void solve_upright();
  void store(const RowPanel& rows, float* corrected) const;

  const CorrectPlan& plan_;
  const SolveTable& table_;
  const RefineTable& loops_;
  std::vector<float> w_;       ///< (n, 64) in visiting order
  std::vector<float> change_;  ///< (n, 64): W M, then D, then D R^-T, then D (R Rᵀ)^-1
  std::vector<float> wanted_;  ///< (n, 64); empty until a part gives it
  std::vector<float> product_, rest_, packed_;
};

}  // namespace gptq
