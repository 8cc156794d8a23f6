#pragma once

#include <string>

#include "io/report.h"
#include "pipeline/grid_shape.h"
#include "pipeline/job_inputs.h"

namespace gptq {

struct FittingPlan {
  Plan plan;
  PredictedPhases predicted;  ///< on the root; empty: no machine was described
};

/// What the job will do on these ranks in this grid, and says so. machine: a description to predict the
/// phases with; empty: none. Throws UsageError on every rank where it does not fit. Collective.
FittingPlan make_fitting_plan(const JobConfig& job, const JobInputs& inputs, const ComputeContext& compute,
                              const GridShape& grid, const std::string& machine, Communicator& comm);

}  // namespace gptq
