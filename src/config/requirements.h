#pragma once

#include "config/job_config.h"

namespace gptq {

/// What a command needs beyond a well-formed job. Everything missing is reported in one UsageError.
void require_for_quantize(
    const JobConfig& job);  ///< calibration (unless rtn), output; output is none of the inputs
void require_for_eval(const JobConfig& job);  ///< data, and a model: eval.model or output.path

}  // namespace gptq
