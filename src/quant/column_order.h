#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "config/job_config.h"
#include "kernels/kernels.h"

namespace gptq {

/// The order in which columns are visited and the group of each, from the undamped diagonal of H and the
/// options desc_act, act_group_aware, static_groups, group_size (a ragged last group is allowed and, with
/// GAR, stays last). Sorting is stable, so equal diagonals keep column order. Fills n, groups, order,
/// group_of, weight and dead. The weights are the diagonal divided by its maximum: only their ratios matter,
/// and a float holds those. With desc_act groups are formed in visiting order, unless static_groups.
SolveColumns arrange_columns(std::span<const double> diagonal, const QuantizationSection& options);

/// Without a Hessian (RTN): natural order, all weights 1, nothing dead.
SolveColumns natural_columns(std::int64_t n, const QuantizationSection& options);

}  // namespace gptq
