#pragma once

#include <string>

#include "comm/communicator.h"
#include "config/job_config.h"

namespace gptq {

/// Whether output.path holds this job's finished output already, and may be left as it is; then what an
/// attempt that was killed after its last write may have left beside it is removed. Collective.
bool already_finished(const JobConfig& job, const std::string& fingerprint, Communicator& comm);

}  // namespace gptq
