#pragma once

#include <cstddef>
#include <string>

/// Memory of the emulated device and pinned host memory: host memory with guard zones, filled with NaNs.
namespace emulation {

enum class MemoryKind { device, pinned, pageable };

/// 512-byte aligned; null if the device is full.
void* allocate(MemoryKind kind, std::size_t bytes);
/// Takes the memory out of the account, so that calls from now on do not know it. False if it was not
/// allocated, or not as this kind. release() gives it back, at once or in the order of a stream.
bool retire(MemoryKind kind, void* memory);
/// Checks the guard zones, too.
void release(void* memory);

/// Where memory lies; `inside` tells whether all bytes lie in one allocation.
MemoryKind kind_of(const void* memory, std::size_t bytes, bool& inside);

/// Aborts with a message that names `what` unless all bytes lie in one allocation of device memory.
void require_device_memory(const void* memory, std::size_t bytes, const char* what);

/// Aborts, naming `after`, if something was written outside of allocated memory.
void check_guards(const std::string& after);

std::size_t device_bytes();  ///< in all; GPTQ_EMULATION_MEMORY_BYTES or 8 GiB
std::size_t used_bytes();    ///< of the device
std::size_t& highest_used_bytes();

}  // namespace emulation
