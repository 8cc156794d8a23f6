#pragma once

#include "config/job_schema.h"

/// A key's path and member from one text, so that they cannot differ. For the tables of keys alone.
#define GPTQ_KEY(member_path) \
#member_path, Member(+[](JobConfig& job) -> decltype((job.member_path)) { return job.member_path; })

namespace gptq {

/// The rows of the section `quantization`.
std::vector<Key> quantization_keys();

}  // namespace gptq
