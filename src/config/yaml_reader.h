#pragma once

#include <string>
#include <vector>

#include "config/job_config.h"

namespace gptq {

/// Reads a job YAML strictly and applies `key=value` overrides ("quantization.bits=3"; lists as YAML flow text).
/// All mistakes are reported in one UsageError: file:line:column, the key, what is wrong, the nearest valid key or
/// the valid range. Relative paths in the file are taken from the current directory.
JobConfig read_job(const std::string& path, const std::vector<std::string>& overrides);

/// Every key with its value, as YAML that read_job takes; the values that change the result first.
std::string to_yaml(const JobConfig& config);

/// Values that change the output's bytes as key → text; the identity of a job (for fingerprints).
std::map<std::string, std::string> result_keys(const JobConfig& config);

}  // namespace gptq
