#pragma once

#include <map>
#include <string>
#include <vector>

#include "config/job_config.h"

namespace gptq {

/// Reads a job YAML strictly and applies `key=value` overrides ("quantization.bits=3"; lists as YAML flow
/// text; the last one of a key wins). All mistakes are reported in one UsageError, one a line:
/// file:line:column or the override, the key, what is wrong, the nearest valid key or the valid range.
/// Relative paths in the file are taken from the current directory; a leading ~ and ${VARIABLE} are expanded.
/// Two defaults depend on other keys: act_group_aware is false where desc_act is true, and scale_search is
/// minmax where method is rtn.
JobConfig read_job(const std::string& path, const std::vector<std::string>& overrides);

/// Every key with its value, as YAML that read_job takes; in a section, the values that change the result
/// first.
std::string to_yaml(const JobConfig& config);

/// Values that change the output's bytes as key → text; the identity of a job (for fingerprints).
std::map<std::string, std::string> result_keys(const JobConfig& config);

/// configs/reference.yaml: every key with its default, documentation, effect and valid values.
std::string reference_yaml();
/// A job that asks for nothing: every key's default, those of the default `quality` included.
JobConfig default_job();

}  // namespace gptq
