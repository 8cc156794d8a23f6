#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/isa/solve_panel.h"
#include "kernels/kernels.h"
#include "kernels/solve_schedule.h"

/// Private to kernels/cpu: what all panels of one solve share.
namespace gptq {

/// The inverses and packed triangles of one batch's diagonal block of R.
struct SolveTriangle {
  std::vector<float> inverse;         ///< transposed U = R_BB^-1, row length kSolveBatch
  std::vector<float> packed_inverse;  ///< U for SolveTable::multiply
  std::vector<float> packed;          ///< R_BB for SolveTable::multiply
  std::vector<float> pivot;           ///< 1/U_jj = R_jj
};

class SolvePlan : public SolveSchedule {
 public:
  SolvePlan(const SolveColumns& columns, std::span<const float> r, double damping,
            const SolveOptions& options);

  const float* r;  ///< null: round to nearest
  double damping;
  std::vector<SolveTriangle> triangles;  ///< one a batch; empty: round to nearest

 private:
  void make_triangles();
};

const SolveTable& solve_table();

}  // namespace gptq
