#pragma once

#include <nlohmann/json.hpp>

#include "config/job_config.h"

namespace gptq {

/// The job as nested JSON with the YAML's own keys. Private to src/io.
nlohmann::ordered_json to_json(const JobConfig& job);

}  // namespace gptq
