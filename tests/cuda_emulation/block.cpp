#include "tests/cuda_emulation/block.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "tests/cuda_emulation/fiber.h"
#include "tests/cuda_emulation/order.h"
#include "tests/cuda_emulation/symbols.h"

namespace emulation {

Place place;

namespace {

constexpr int kNaNs = 0xff;
constexpr unsigned char kGuardByte = 0xa5;
constexpr std::size_t kGuard = 1024;
constexpr std::size_t kMostShared = 227 * 1024;
constexpr std::size_t kMostThreads = 1024;

enum class State { fresh, ready, at_barrier, in_collective, ended };

struct Thread {
  State state = State::fresh;
  Context context;
  std::byte* stack = nullptr;
  uint3 index{};
  const char* operation = nullptr;  ///< of the collective it is in
  std::source_location where;       ///< of the last barrier or collective
};

struct Warp {
  unsigned arrived = 0;
  const Thread* first = nullptr;  ///< that arrived
  Exchange given;                 ///< filled by the lanes as they arrive
  Exchange taken;                 ///< what they read after all have
};

/// The running block, and what is reused from one to the next.
struct Block {
  Block() : stacks(kMostThreads), dynamic(kGuard + kMostShared + kGuard + 1024) {
    for (std::size_t i = 0; i < kMostThreads; ++i) free_stacks.push_back(stacks.stack(i));
    auto address = reinterpret_cast<std::uintptr_t>(dynamic.data() + kGuard);
    dynamic_start = reinterpret_cast<std::byte*>((address + 1023) / 1024 * 1024);
  }

  const void* kernel = nullptr;
  const std::function<void()>* body = nullptr;
  std::size_t shared = 0;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::size_t running = 0;  ///< thread
  std::size_t at_barrier = 0, ended = 0;

  Stacks stacks;
  std::vector<std::byte*> free_stacks;
  std::vector<std::byte> dynamic;
  std::byte* dynamic_start;
  std::vector<std::span<std::byte>> arrays;
  Context scheduler;
};

Block& block() {
  static Block& only = *new Block;
  return only;
}

bool same(const char* a, const char* b) {
  return a == b || std::strcmp(a, b) == 0;
}

std::string text(const uint3& i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}
std::string text(std::source_location where) {
  return std::string(where.file_name()) + ":" + std::to_string(where.line());
}

[[noreturn]] void abort_with(const std::string& message) {
  std::fflush(stdout);
  std::fprintf(stderr, "emulation: %s\n  kernel %s, block %s\n", message.c_str(),
               function_name(block().kernel).c_str(), text(place.block).c_str());
  std::abort();
}

/// Gives the OS thread back to the scheduler.
void suspend() {
  Thread& self = block().threads[block().running];
  switch_context(self.context, block().scheduler);
}

void thread_entry() {
  Block& b = block();
  (*b.body)();
  end_of_thread();
  b.threads[b.running].state = State::ended;
  ++b.ended;
  suspend();
  std::abort();
}

void resume(std::size_t number) {
  Block& b = block();
  Thread& thread = b.threads[number];
  if (thread.state == State::fresh) {
    thread.stack = b.free_stacks.back();
    b.free_stacks.pop_back();
    prepare_context(thread.context, thread.stack, Stacks::kBytes, thread_entry);
  }
  b.running = number;
  place.thread = thread.index;
  switch_context(b.scheduler, thread.context);
  if (thread.state == State::ended) b.free_stacks.push_back(thread.stack);
}

[[noreturn]] void report_deadlock() {
  std::map<std::string, std::pair<std::size_t, uint3>> places;
  for (const Thread& thread : block().threads) {
    std::string what = "ended";
    if (thread.state == State::at_barrier) what = "wait in __syncthreads at " + text(thread.where);
    if (thread.state == State::in_collective)
      what = "wait in " + std::string(thread.operation) + " at " + text(thread.where);
    auto& [count, first] = places.try_emplace(what, 0, thread.index).first->second;
    ++count;
  }
  std::string message = "the threads of a block wait for ever:";
  for (const auto& [what, found] : places)
    message +=
        "\n  " + std::to_string(found.first) + " threads, the first " + text(found.second) + ": " + what;
  abort_with(message);
}

/// A barrier in divergent code may work by chance; the rule is that all threads come to the same one.
void release_barrier() {
  Block& b = block();
  const Thread& first = b.threads.front();
  for (Thread& thread : b.threads) {
    if (thread.where.line() != first.where.line() || !same(thread.where.file_name(), first.where.file_name()))
      abort_with("threads " + text(first.index) + " and " + text(thread.index) +
                 " meet in different __syncthreads: " + text(first.where) + " and " + text(thread.where));
    thread.state = State::ready;
  }
  b.at_barrier = 0;
}

void start_block(std::size_t count) {
  Block& b = block();
  b.threads.assign(count, Thread());
  for (std::size_t i = 0; i < count; ++i) {
    const dim3 shape = place.threads;
    const auto number = static_cast<unsigned>(i);
    b.threads[i].index = {number % shape.x, number / shape.x % shape.y, number / (shape.x * shape.y)};
  }
  b.warps.resize((count + kWarp - 1) / kWarp);
  for (std::size_t w = 0; w < b.warps.size(); ++w) {
    b.warps[w].arrived = 0;
    const auto lanes = static_cast<unsigned>(std::min<std::size_t>(kWarp, count - w * kWarp));
    b.warps[w].given.lanes = b.warps[w].taken.lanes = lanes;
  }
  b.at_barrier = b.ended = 0;

  std::memset(b.dynamic_start - kGuard, kGuardByte, kGuard);
  std::memset(b.dynamic_start, kNaNs, b.shared);
  std::memset(b.dynamic_start + b.shared, kGuardByte, kGuard);
  for (const auto& array : b.arrays) std::memset(array.data(), kNaNs, array.size());
}

void check_guards() {
  const Block& b = block();
  for (std::size_t i = 0; i < kGuard; ++i) {
    if (b.dynamic_start[b.shared + i] != std::byte{kGuardByte})
      abort_with("write " + std::to_string(i) + " bytes behind the " + std::to_string(b.shared) +
                 " bytes of dynamic shared memory");
    if (*(b.dynamic_start - 1 - i) != std::byte{kGuardByte}) abort_with("write before dynamic shared memory");
  }
}

void run_block(Order& order) {
  Block& b = block();
  const std::size_t count = b.threads.size();
  while (b.ended < count) {
    bool progress = false;
    for (const std::size_t i : order.of(count)) {
      const State state = b.threads[i].state;
      if (state != State::fresh && state != State::ready) continue;
      progress = true;
      resume(i);
    }
    if (!progress) report_deadlock();
  }
  check_guards();
}

}  // namespace

void fail(const char* what, std::source_location where) {
  abort_with(std::string(what) + "\n  thread " + text(place.thread) + ", at " + text(where));
}

void* dynamic_shared_memory() {
  return block().dynamic_start;
}

bool in_shared_memory(const void* memory, std::size_t bytes) {
  const Block& b = block();
  const auto* start = static_cast<const std::byte*>(memory);
  const auto inside = [&](const std::byte* area, std::size_t size) {
    return start >= area && start + bytes <= area + size;
  };
  if (inside(b.dynamic_start, b.shared)) return true;
  return std::any_of(b.arrays.begin(), b.arrays.end(),
                     [&](const auto& array) { return inside(array.data(), array.size()); });
}

void block_barrier(std::source_location where) {
  Block& b = block();
  Thread& self = b.threads[b.running];
  self.where = where;
  self.state = State::at_barrier;
  if (++b.at_barrier == b.threads.size()) release_barrier();
  suspend();
}

const Exchange& exchange(const char* operation, const void* value, std::size_t bytes,
                         std::source_location where) {
  Block& b = block();
  Thread& self = b.threads[b.running];
  const std::size_t first = b.running / kWarp * kWarp;
  Warp& warp = b.warps[b.running / kWarp];
  if (warp.arrived == 0) {
    warp.first = &self;
  } else if (!same(warp.first->operation, operation)) {
    fail((std::string("the lanes of a warp meet in different operations: here ") + operation + ", others " +
          warp.first->operation + " at " + text(warp.first->where))
             .c_str(),
         where);
  }
  self.where = where;
  self.operation = operation;
  self.state = State::in_collective;
  std::memcpy(warp.given.slots[b.running - first], value, bytes);
  if (++warp.arrived == warp.given.lanes) {
    warp.taken = warp.given;
    warp.arrived = 0;
    for (unsigned i = 0; i < warp.given.lanes; ++i) b.threads[first + i].state = State::ready;
  }
  suspend();
  return warp.taken;
}

unsigned lane() {
  return static_cast<unsigned>(block().running % kWarp);
}
unsigned thread_in_block() {
  return static_cast<unsigned>(block().running);
}

void run_grid(const void* kernel, dim3 grid, dim3 threads, std::size_t shared,
              const std::function<void()>& thread_body) {
  static const Choice choice = read_choice("GPTQ_EMULATION_ORDER", {"forward", "reverse"});
  static Order block_order(choice), thread_order(choice);
  Block& b = block();
  b.kernel = kernel;
  b.body = &thread_body;
  b.shared = shared;
  b.arrays = shared_arrays();
  place.blocks = grid;
  place.threads = threads;
  const std::size_t plane = std::size_t{grid.x} * grid.y;
  for (const std::size_t i : block_order.of(plane * grid.z)) {
    place.block = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i % plane / grid.x),
                   static_cast<unsigned>(i / plane)};
    start_block(std::size_t{threads.x} * threads.y * threads.z);
    run_block(thread_order);
  }
}

}  // namespace emulation
