#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/isa/refine_panel.h"
#include "kernels/cpu/isa/solve_panel.h"
#include "kernels/kernels.h"
#include "kernels/solve_schedule.h"

/// Private to kernels/cpu: what all panels of one refinement share.
namespace gptq {

class RefinePlan {
 public:
  /// Borrows columns and h.
  RefinePlan(const SolveColumns& columns, const float* h, const SolveOptions& options,
             const RefineOptions& refine);

  std::int64_t n() const { return schedule.columns.n; }
  const float* row_of_h(std::int64_t position) const { return h + position * n(); }

  const float* h;
  RefineOptions refine;

 private:
  SolveOptions options_;

 public:
  /// Groups whose columns are visited one after the other start segments, as in a solve that searches their
  /// scales; others (static_groups with desc_act) are scattered over batches of a fixed width.
  SolveSchedule schedule;
  bool scattered;
  std::vector<std::vector<std::int32_t>> positions;  ///< of each group's columns, rising
  std::int64_t widest = 0;                           ///< columns of the widest group
  std::vector<std::vector<float>> blocks;            ///< of each batch: its block of H, (count, kSolveBatch)
};

const RefineTable& refine_table();  ///< this machine's

}  // namespace gptq
