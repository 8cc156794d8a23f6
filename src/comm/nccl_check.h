#pragma once

#include <fmt/format.h>
#include <nccl.h>

#include <string>

/// Private to the NCCL plugin: what its libraries say, in words.
namespace gptq::nccl {

/// NCCL works on; ask ncclCommGetAsyncError for the outcome.
inline bool failed(ncclResult_t result) {
  return result != ncclSuccess && result != ncclInProgress;
}

inline std::string problem_text(ncclResult_t result, const std::string& doing, ncclComm_t comm) {
  const char* detail = ncclGetLastError(comm);
  const bool has_detail = detail != nullptr && *detail != '\0';
  return fmt::format(
      "NCCL failed while {}: {}{}{}. {}", doing, ncclGetErrorString(result), has_detail ? ": " : "",
      has_detail ? detail : "",
      result == ncclRemoteError
          ? "Another rank ended or the network between them broke: look at the other ranks' messages first"
          : "NCCL_DEBUG=INFO makes it say more; where a node has several networks, NCCL_SOCKET_IFNAME "
            "names the one to use");
}

inline std::string problem_text(cudaError_t status, const std::string& doing) {
  return fmt::format("CUDA failed while {}: {} ({})", doing, cudaGetErrorName(status),
                     cudaGetErrorString(status));
}

/// "2.28.9"
inline std::string version_text() {
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) return "of unknown version";
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace gptq::nccl
