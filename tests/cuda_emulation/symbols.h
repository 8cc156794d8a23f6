#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

/// What the symbol table of the program (or shared object) that the emulation is linked into tells.
namespace emulation {

/// Name of the function at this address, demangled; its address where unknown.
std::string function_name(const void* function);

/// The calling OS thread's copies of all static shared arrays of the program (thread_local variables inside
/// functions of a namespace named cuda).
std::vector<std::span<std::byte>> shared_arrays();

}  // namespace emulation
