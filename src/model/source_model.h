#pragma once

#include <memory>

#include "config/job_config.h"
#include "model/weights.h"

namespace gptq {

/// The job's source model as everything after sees it: checked (ModelWeights::check), and in rotated form
/// where quantization.rotation asks for it. Throws InputError or UsageError.
std::unique_ptr<ModelWeights> open_source_model(const JobConfig& job);

}  // namespace gptq
