#pragma once

#include <functional>
#include <string>
#include <vector>

#include "config/consistency.h"
#include "config/job_config.h"

namespace gptq {

/// 5, 6 and 7 bits: every loader that reads them wants their codes as planes (output.checkpoint_format
/// gptq_p, src/quant/packing.h).
bool needs_planes(int bits);

/// Where layers may get bits that need planes (by bits, mlp_bits, module_bits or dynamic), the output's
/// checkpoint_format becomes gptq_p unless it was given; what was given and cannot hold them is returned, and
/// so is gptq_p together with OneComp's list, which OneComp would misread. given: whether a key, with its
/// section, was asked for. Conflict::key is such a key.
std::vector<Conflict> settle_checkpoint_format(JobConfig& job,
                                               const std::function<bool(const std::string&)>& given);

}  // namespace gptq
