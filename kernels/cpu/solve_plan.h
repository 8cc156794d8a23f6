#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/isa/solve_panel.h"
#include "kernels/kernels.h"

/// Private to kernels/cpu: what all panels of one solve share.
namespace gptq {

/// Columns of a batch between two moments at which all of them must be up to date. Positions count visited
/// columns.
struct SolveSegment {
  std::int64_t first = 0;
  std::int64_t count = 0;
  std::int64_t search_count = 0;  ///< > 0: a group of so many columns starts here, and its scale is sought
};

struct SolveBatch {
  std::int64_t first = 0;
  std::int64_t count = 0;  ///< <= kSolveBatch
  std::vector<SolveSegment> segments;
};

/// The inverses and packed triangles of one batch's diagonal block of R.
struct SolveTriangle {
  std::vector<float> inverse;         ///< transposed U = R_BB^-1, row length kSolveBatch
  std::vector<float> packed_inverse;  ///< U for SolveTable::multiply
  std::vector<float> packed;          ///< R_BB for SolveTable::multiply
  std::vector<float> pivot;           ///< 1/U_jj = R_jj
};

class SolvePlan {
 public:
  SolvePlan(const SolveColumns& columns, std::span<const float> r, double damping,
            const SolveOptions& options);

  const SolveColumns& columns;
  const float* r;  ///< null: round to nearest
  double damping;
  const SolveOptions& options;

  std::vector<SolveBatch> batches;
  std::vector<SolveTriangle> triangles;  ///< one a batch; empty: round to nearest
  std::vector<std::int32_t> position;    ///< position[column]: when it is visited
  std::vector<std::int32_t> group;       ///< by position
  std::vector<float> weight;             ///< by position; the largest of each group is 1
  std::vector<float> shrink;             ///< the search's candidates
  std::vector<std::vector<std::int32_t>>
      group_positions;  ///< of each group, in column order; only without refit
  std::int64_t widest_search =
      0;  ///< columns of the widest group whose values must be copied or solved ahead
  int max_code = 0;

 private:
  void make_weights();
  void make_batches();
  void make_fixed_batches();
  void make_triangles();
};

const SolveTable& solve_table();

}  // namespace gptq
