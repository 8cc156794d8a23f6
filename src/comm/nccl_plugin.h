#pragma once

#include <string>

#include "comm/device_collectives.h"

/// What the program and its NCCL plugin agree on (base/plugin.h opens it). Exceptions cross the border as the
/// classes of base/error.h and CollectiveError.
namespace gptq {

constexpr const char* kNcclPluginFile = "gptq_hpc_nccl.so";
constexpr const char* kNcclPluginVariable = "GPTQ_HPC_NCCL_PLUGIN";
constexpr const char* kNcclPluginEntry = "gptq_hpc_nccl_collectives";

/// Every rank says what problem it has, or nothing; if any has one, CollectiveError is thrown on all of them,
/// of a smaller team than the world too. Collective.
inline void agree(Communicator& comm, const std::string& problem) {
  const std::string first = first_problem(comm, problem);
  if (!first.empty()) throw CollectiveError(ExitCode::communication, first);
}

/// Owned by the caller. Throws CollectiveError on every rank alike (make_nccl_collectives). Collective.
using NcclPluginEntry = DeviceCollectives* (*)(Communicator& comm, const NcclPlace& place);

}  // namespace gptq
