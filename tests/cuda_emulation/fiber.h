#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

/// Stacks that one OS thread switches between.
namespace emulation {

/// Where a suspended flow of control goes on.
struct Context {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
};

/// Suspends the running flow into `from` and goes on with `to`.
void switch_context(Context& from, Context& to);
/// Lets `context` start `entry` on the given stack; `entry` must never return.
void prepare_context(Context& context, std::byte* stack, std::size_t bytes, void (*entry)());

/// Memory for `count` stacks; below each lies a page that faults when a kernel needs more.
class Stacks {
 public:
  static constexpr std::size_t kBytes = 256 * 1024;
  explicit Stacks(std::size_t count);
  std::byte* stack(std::size_t i) const { return memory_ + i * kStride + kGuard; }

 private:
  static constexpr std::size_t kGuard = 4096;
  static constexpr std::size_t kStride = kBytes + kGuard;
  std::byte* memory_;
};

}  // namespace emulation
