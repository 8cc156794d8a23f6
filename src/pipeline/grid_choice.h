#pragma once

#include "config/job_config.h"
#include "pipeline/grid_shape.h"

namespace gptq {

/// The grid that a job asks for on so many ranks; auto: one stage, or what the other key leaves. Throws
/// UsageError naming the nearest shapes where it cannot be.
GridShape grid_of(const ParallelSection& section, int ranks);

/// Throws UsageError for a grid that this version cannot run: more than one stage.
void require_one_stage(const GridShape& grid);

}  // namespace gptq
