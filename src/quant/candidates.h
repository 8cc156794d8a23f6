#pragma once

#include <vector>

#include "config/job_config.h"

namespace gptq {

/// The ways in which a layer's rows are tried: the section's own first, then one a text of best_of,
/// "key=value key=value". Keys are those that leave bits, groups and g_idx alone: scale_search, mse_norm,
/// mse_grid, max_shrink, damp_percent, act_group_aware, refine_sweeps, refine_scales. Throws UsageError
/// naming the text and what is wrong with it.
std::vector<QuantizationSection> candidates_of(const QuantizationSection& section);

}  // namespace gptq
