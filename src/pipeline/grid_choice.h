#pragma once

#include "config/job_config.h"
#include "pipeline/grid_shape.h"

namespace gptq {

/// The grid that a job asks for on so many ranks; auto: one stage, or what the other key leaves. Throws
/// UsageError naming the nearest shapes where it cannot be.
GridShape grid_of(const ParallelSection& section, int ranks);

/// Whether stages take turns: a block's layers see what was made of the blocks before it. Otherwise each goes
/// its own way, round by round.
bool takes_turns(const JobConfig& job);
/// Whether the stages that do not hold a block solve some of its rows. Throws UsageError where the job asks
/// for it and all stages are busy.
bool stages_help(const JobConfig& job);

}  // namespace gptq
