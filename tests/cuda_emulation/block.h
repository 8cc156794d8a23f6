#pragma once

#include <vector_types.h>

#include <cstddef>
#include <functional>
#include <source_location>

/// One block of CUDA threads, as fibers of the calling OS thread.
namespace emulation {

/// Where the running CUDA thread is. One kernel runs at a time in a process (launch.h), hence a plain global.
struct Place {
  uint3 thread{}, block{};
  dim3 threads, blocks;
};
extern Place place;

constexpr unsigned kWarp = 32;

/// Writes what went wrong, with kernel, block, thread and place in the source, and aborts.
[[noreturn]] void fail(const char* what, std::source_location where);

/// The running block's dynamic shared memory, 1024-byte aligned, filled with 0xFF (NaNs) before the block.
void* dynamic_shared_memory();
/// The memory lies in the running block's shared memory, static or dynamic.
bool in_shared_memory(const void* memory, std::size_t bytes);

/// __syncthreads: all threads of the block must come, to the same line of source.
void block_barrier(std::source_location where);

/// A warp collective: every lane gives `bytes` (at most 64) of its own and gets what all gave, slot by slot,
/// valid until its next collective. All 32 lanes (of a last, incomplete warp: all that exist) must come, with
/// the same operation.
struct Exchange {
  static constexpr std::size_t kSlot = 64;
  alignas(16) unsigned char slots[kWarp][kSlot];
  unsigned lanes = 0;  ///< that exist
  template <typename T>
  const T& of(unsigned lane) const {
    return *reinterpret_cast<const T*>(slots[lane]);
  }
};
const Exchange& exchange(const char* operation, const void* value, std::size_t bytes,
                         std::source_location where);
/// The running thread's number in its warp.
unsigned lane();
/// The running thread's number in its block.
unsigned thread_in_block();

/// Runs `thread_body` once a thread for one grid, block after block. `kernel`: the function, for messages.
void run_grid(const void* kernel, dim3 grid, dim3 block, std::size_t shared,
              const std::function<void()>& thread_body);

/// Called when a CUDA thread ends; ptx_emulation.cpp drops what the thread left unfinished.
void end_of_thread();

}  // namespace emulation
