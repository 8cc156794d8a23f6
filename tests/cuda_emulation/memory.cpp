#include "tests/cuda_emulation/memory.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>

namespace emulation {
namespace {

constexpr std::size_t kGuard = 512;  // also the alignment
constexpr unsigned char kGuardByte = 0xa5;
constexpr int kNaNs = 0xff;

struct Allocation {
  MemoryKind kind;
  std::size_t bytes = 0;
  bool retired = false;
};

std::map<std::uintptr_t, Allocation>& allocations() {
  static auto& all = *new std::map<std::uintptr_t, Allocation>;  // outlives every static object
  return all;
}

std::uintptr_t number(const void* memory) {
  return reinterpret_cast<std::uintptr_t>(memory);
}

/// Sum over the device's memory.
std::size_t used = 0, highest = 0;

/// Memory that was given back, kept a while to see who still writes there.
struct Freed {
  std::byte* start;
  std::size_t bytes;
};
constexpr std::size_t kQuarantine = std::size_t{64} << 20;
std::size_t quarantined = 0;

void keep_for_a_while(std::byte* start, std::size_t bytes) {
  static auto& quarantine = *new std::deque<Freed>;
  quarantine.push_back({start, bytes});
  quarantined += bytes;
  while (quarantined > kQuarantine) {
    const Freed oldest = quarantine.front();
    quarantine.pop_front();
    quarantined -= oldest.bytes;
    if (std::any_of(oldest.start, oldest.start + oldest.bytes,
                    [](std::byte b) { return b != std::byte{kNaNs}; })) {
      std::fprintf(stderr, "emulation: write to %p after it was given back\n",
                   static_cast<const void*>(oldest.start));
      std::abort();
    }
    std::free(oldest.start - kGuard);
  }
}

void check(std::uintptr_t start, const Allocation& allocation, const std::string& after) {
  static const std::string intact(kGuard, static_cast<char>(kGuardByte));
  const auto* memory = reinterpret_cast<const char*>(start);
  const bool before = std::memcmp(memory - kGuard, intact.data(), kGuard) != 0;
  const bool behind = std::memcmp(memory + allocation.bytes, intact.data(), kGuard) != 0;
  if (!before && !behind) return;
  std::fprintf(stderr, "emulation: write %s the %zu bytes allocated at %p, found after %s\n",
               before ? "before" : "behind", allocation.bytes, static_cast<const void*>(memory),
               after.c_str());
  std::abort();
}

}  // namespace

void* allocate(MemoryKind kind, std::size_t bytes) {
  if (kind == MemoryKind::device && (bytes > device_bytes() || used > device_bytes() - bytes)) return nullptr;
  const std::size_t whole = (bytes + 2 * kGuard + kGuard - 1) / kGuard * kGuard;
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kGuard, whole));
  if (memory == nullptr) return nullptr;
  std::memset(memory, kGuardByte, kGuard);
  std::memset(memory + kGuard, kNaNs, bytes);
  std::memset(memory + kGuard + bytes, kGuardByte, whole - kGuard - bytes);
  allocations()[number(memory + kGuard)] = {kind, bytes, false};
  if (kind == MemoryKind::device) {
    used += bytes;
    highest = std::max(highest, used);
  }
  return memory + kGuard;
}

bool retire(MemoryKind kind, void* memory) {
  const auto found = allocations().find(number(memory));
  if (found == allocations().end() || found->second.retired || found->second.kind != kind) return false;
  found->second.retired = true;
  return true;
}

void release(void* memory) {
  const auto found = allocations().find(number(memory));
  check(found->first, found->second, "its last use");
  if (found->second.kind == MemoryKind::device) used -= found->second.bytes;
  const std::size_t bytes = found->second.bytes;
  std::memset(memory, kNaNs, bytes);
  allocations().erase(found);
  keep_for_a_while(static_cast<std::byte*>(memory), bytes);
}

MemoryKind kind_of(const void* memory, std::size_t bytes, bool& inside) {
  inside = true;
  auto next = allocations().upper_bound(number(memory));
  if (next == allocations().begin()) return MemoryKind::pageable;
  const auto& [start, allocation] = *std::prev(next);
  const std::size_t offset = number(memory) - start;
  if (offset >= allocation.bytes) {
    // In a guard zone: past the end of an allocation, not somewhere else.
    inside = offset >= allocation.bytes + kGuard || bytes == 0;
    return inside ? MemoryKind::pageable : allocation.kind;
  }
  inside = !allocation.retired && bytes <= allocation.bytes - offset;
  return allocation.kind;
}

void require_device_memory(const void* memory, std::size_t bytes, const char* what) {
  bool inside = false;
  if (kind_of(memory, bytes, inside) == MemoryKind::device && inside) return;
  std::fprintf(stderr, "emulation: %s: %zu bytes at %p are not device memory\n", what, bytes, memory);
  std::abort();
}

void check_guards(const std::string& after) {
  for (const auto& [start, allocation] : allocations()) check(start, allocation, after);
}

std::size_t device_bytes() {
  static const char* given = std::getenv("GPTQ_EMULATION_MEMORY_BYTES");
  static const std::size_t bytes =
      given == nullptr ? std::size_t{8} << 30 : std::strtoull(given, nullptr, 10);
  return bytes;
}
std::size_t used_bytes() {
  return used;
}
std::size_t& highest_used_bytes() {
  return highest;
}

}  // namespace emulation
