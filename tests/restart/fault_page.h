#pragma once

#include <array>
#include <atomic>
#include <cstdint>

/// What the fault library (fault_shim.cpp) and its driver share: names of environment variables, and a page
/// of memory mapped from a file, so that what a rank counted is still there when that rank was killed.
namespace gptq::test {

enum class FaultKind : int { write, claim, sync, rename, open, unlink, read, mpi };
inline constexpr int kFaultKinds = 8;
inline constexpr std::array<const char*, kFaultKinds> kFaultKindNames = {
    "write", "claim room", "sync", "rename", "create", "remove", "read", "collective"};

enum class FaultMode : int {
  none,        ///< count only
  eio,         ///< the call fails: EIO, or MPI_ERR_OTHER of a collective
  enospc,      ///< the call fails with ENOSPC
  full,        ///< from this call on nothing can be written, made longer or created: ENOSPC
  part,        ///< a write takes half of its bytes and says so, which is not an error
  kill,        ///< SIGKILL instead of the call
  torn,        ///< half of the write's bytes, then SIGKILL
  kill_after,  ///< SIGKILL right after the call
  power,       ///< as kill, and what was not synced is lost: zeros in files, names as before
  hang,        ///< the call never returns
};
inline constexpr int kFaultModes = 10;
inline constexpr std::array<const char*, kFaultModes> kFaultModeNames = {
    "none", "EIO", "ENOSPC", "disk full", "short", "kill before", "torn", "kill after", "power loss", "hang"};

inline constexpr const char* kFaultPage = "GPTQ_FAULT_PAGE";    ///< file of a FaultPage
inline constexpr const char* kFaultBelow = "GPTQ_FAULT_BELOW";  ///< files in this directory count ...
inline constexpr const char* kFaultNot = "GPTQ_FAULT_NOT";      ///< ... unless they are in this one
inline constexpr const char* kFaultRank = "GPTQ_FAULT_RANK";
inline constexpr const char* kFaultKindVariable = "GPTQ_FAULT_KIND";  ///< as a number
inline constexpr const char* kFaultModeVariable = "GPTQ_FAULT_MODE";  ///< as a number
inline constexpr const char* kFaultCall = "GPTQ_FAULT_CALL";          ///< 1: the first one

inline constexpr int kFaultRanks = 8;

struct FaultPage {
  struct Rank {
    std::atomic<std::int32_t> process{0};  ///< 0: not started
    std::array<std::atomic<std::uint64_t>, kFaultKinds> calls{};
  };
  std::array<Rank, kFaultRanks> ranks;
  std::atomic<std::int32_t> fired{0};
  std::array<char, 512> where{};  ///< "pwrite64 of PATH"; set before `fired`
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

}  // namespace gptq::test
