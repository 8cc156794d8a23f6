#pragma once

#include <cstdint>
#include <string>

#include "restart/fault_page.h"

/// Inside the fault library: decides for each call whether it is the one. No call here may allocate through
/// the interposed functions or touch a file except by raw system calls.
namespace gptq::test {

/// Counts a call on `path` (empty: no file, always watched) and says what is to happen to it: `none` for
/// nearly all.
FaultMode fault_at(FaultKind kind, const char* name, const std::string& path);

[[noreturn]] void die_now();
[[noreturn]] void hang_forever();

std::string path_of(int descriptor);                       ///< "" if it is no file
std::string path_of(int directory, const char* relative);  ///< absolute

/// What would be lost if the machine lost its power now; kept only when the plan is FaultMode::power.
namespace unsynced {
void wrote(const std::string& path, std::int64_t first, std::int64_t bytes);
void synced(const std::string& path);  ///< a file or a directory
void renamed(const std::string& from, const std::string& to, bool replaced);
void lose();  ///< zeros in place of those bytes, and names as they were
}  // namespace unsynced

}  // namespace gptq::test
