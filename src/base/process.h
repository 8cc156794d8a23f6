#pragma once

#include <cstdint>
#include <string>

namespace gptq {

std::int64_t peak_memory_bytes();     ///< highest resident set of this process so far
std::int64_t current_memory_bytes();  ///< resident set of this process now
std::int64_t host_memory_bytes();     ///< usable by this process: the smaller of machine and cgroup limit
std::string host_name();
double seconds_since_process_start();
/// Makes malloc keep freed memory for reuse; first thing in main, before any other thread exists.
void keep_freed_memory();
/// Gives back what malloc has kept until now: before tables so large that none of it suffices for them.
void give_back_freed_memory();
int available_cores();  ///< cores this process may run on (respects affinity)

}  // namespace gptq
