#include "tests/cuda_emulation/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

#if defined(__x86_64__)
// Keeps what the System V ABI wants a callee to keep; the rest the compiler saves around the call.
// ucontext's own switch makes a system call, 20 times slower.
asm(R"(
.text
.globl gptq_emulation_switch
.type gptq_emulation_switch, @function
gptq_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq (%rsi), %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size gptq_emulation_switch, .-gptq_emulation_switch
)");
extern "C" void gptq_emulation_switch(void** from, void** to);
#endif

namespace emulation {

#if defined(__x86_64__)

void switch_context(Context& from, Context& to) {
  gptq_emulation_switch(&from.stack_pointer, &to.stack_pointer);
}

void prepare_context(Context& context, std::byte* stack, std::size_t bytes, void (*entry)()) {
  // As if `entry` had been called: its return address (none) at an odd multiple of 8 bytes.
  auto* top = reinterpret_cast<std::uint64_t*>(stack + bytes / 16 * 16);
  *--top = 0;
  *--top = reinterpret_cast<std::uint64_t>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = 0;
  context.stack_pointer = top;
}

#else

void switch_context(Context& from, Context& to) {
  swapcontext(&from.context, &to.context);
}

void prepare_context(Context& context, std::byte* stack, std::size_t bytes, void (*entry)()) {
  getcontext(&context.context);
  context.context.uc_stack.ss_sp = stack;
  context.context.uc_stack.ss_size = bytes;
  context.context.uc_link = nullptr;
  makecontext(&context.context, entry, 0);
}

#endif

Stacks::Stacks(std::size_t count) {
  void* memory = mmap(nullptr, count * kStride, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) abort();
  memory_ = static_cast<std::byte*>(memory);
  for (std::size_t i = 0; i < count; ++i) mprotect(memory_ + i * kStride, kGuard, PROT_NONE);
}

}  // namespace emulation
