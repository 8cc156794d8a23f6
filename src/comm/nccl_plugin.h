#pragma once

#include "comm/device_collectives.h"

/// What the program and its NCCL plugin agree on (base/plugin.h opens it). Exceptions cross the border as the
/// classes of base/error.h and CollectiveError.
namespace gptq {

constexpr const char* kNcclPluginFile = "gptq_hpc_nccl.so";
constexpr const char* kNcclPluginVariable = "GPTQ_HPC_NCCL_PLUGIN";
constexpr const char* kNcclPluginEntry = "gptq_hpc_nccl_collectives";

/// Owned by the caller. Throws CollectiveError on every rank alike. Collective.
using NcclPluginEntry = DeviceCollectives* (*)(Communicator& comm, const NcclPlace& place);

}  // namespace gptq
