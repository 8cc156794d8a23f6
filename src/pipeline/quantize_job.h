#pragma once

#include <string>

#include "comm/communicator.h"
#include "config/job_config.h"
#include "io/report.h"

namespace gptq {

struct QuantizeOptions {
  bool fresh = false;   ///< start over, discarding the job's checkpoint
  std::string machine;  ///< description to predict the phases with; empty: no prediction
  std::string trace;    ///< file for a timeline of all ranks; empty: none is made
};

/// `gptq-hpc quantize`: everything from checked inputs to a finished output directory. Collective. Returns
/// the report, complete on the root. An output of the same job that is already finished
/// is left as it is; the report's `layers` are then empty and `output` names it. An interrupted job goes on
/// from its checkpoint, with any number of ranks; discarding it needs output.overwrite as well. Throws
/// Stopped when a signal asked the job to stop.
Report run_quantize(const JobConfig& job, const QuantizeOptions& options, Communicator& comm);

}  // namespace gptq
