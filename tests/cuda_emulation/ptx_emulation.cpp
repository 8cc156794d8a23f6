#include "tests/cuda_emulation/ptx_emulation.h"

#include <bit>
#include <cstddef>
#include <cstring>
#include <map>
#include <vector>

#include "tests/cuda_emulation/block.h"

namespace emulation {
namespace {

struct Fragments {
  float c[4];
  std::uint32_t a[4];
  std::uint32_t b[2];
};

/// Half of a register that holds two bf16 elements, the lower index in the lower half.
float element(std::uint32_t pair, unsigned index) {
  const std::uint32_t bits = (index % 2 == 0 ? pair : pair >> 16) & 0xffffu;
  return std::bit_cast<float>(bits << 16);
}

// PTX ISA 9.7.14.5.8, "Matrix Fragments for mma.m16n8k16 with floating point type". groupID = lane / 4,
// threadID_in_group = lane % 4.

/// A (16x16), elements a0..a7: row = groupID for a0,a1,a4,a5, else groupID + 8;
/// col = threadID_in_group * 2 + (i & 1), + 8 for i >= 4.
float element_of_a(const Exchange& warp, unsigned row, unsigned col) {
  const unsigned lane = row % 8 * 4 + col % 8 / 2;
  const unsigned reg = row / 8 + col / 8 * 2;
  return element(warp.of<Fragments>(lane).a[reg], col);
}

/// B (16x8), elements b0..b3: row = threadID_in_group * 2 + (i & 1), + 8 for i >= 2; col = groupID.
float element_of_b(const Exchange& warp, unsigned row, unsigned col) {
  const unsigned lane = col * 4 + row % 8 / 2;
  return element(warp.of<Fragments>(lane).b[row / 8], row);
}

struct Copy {
  void* shared;
  const void* global;
  bool valid;
};

/// One CUDA thread's asynchronous copies: finished groups of them, oldest first, and the open one.
struct Copies {
  std::vector<std::vector<Copy>> groups;
  std::vector<Copy> open;
};

std::map<unsigned, Copies> copies_of_threads;  ///< of the running block

bool aligned(const void* memory, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(memory) % bytes == 0;
}

}  // namespace

void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Source where) {
  Fragments own{};
  std::memcpy(own.c, d, sizeof own.c);
  std::memcpy(own.a, a, sizeof own.a);
  std::memcpy(own.b, b, sizeof own.b);
  static_assert(sizeof own <= Exchange::kSlot);
  const Exchange& warp = exchange("mma.m16n8k16", &own, sizeof own, where);
  if (warp.lanes != kWarp) fail("mma by an incomplete warp", where);
  // C and D (16x8), elements c0..c3: row = groupID for c0,c1, else groupID + 8;
  // col = threadID_in_group * 2 + (i & 1).
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane() / 4 + i / 2 * 8;
    const unsigned col = lane() % 4 * 2 + i % 2;
    // The order and rounding of the hardware's sums are not documented; double holds the products exactly.
    double sum = d[i];
    for (unsigned k = 0; k < 16; ++k)
      sum += static_cast<double>(element_of_a(warp, row, k)) * element_of_b(warp, k, col);
    d[i] = static_cast<float>(sum);
  }
}

void load_matrix(std::uint32_t* r, unsigned matrices, bool transposed, const void* row, Source where) {
  if (lane() < matrices * 8) {
    if (!aligned(row, 16)) fail("ldmatrix from a row that is not 16-byte aligned", where);
    if (!in_shared_memory(row, 16)) fail("ldmatrix from outside shared memory", where);
  }
  const char* name = transposed ? (matrices == 4 ? "ldmatrix.x4.trans" : "ldmatrix.x2.trans")
                                : (matrices == 4 ? "ldmatrix.x4" : "ldmatrix.x2");
  // The rows are read when all lanes have come; what a lane wrote before the instruction, others see.
  const Exchange& warp = exchange(name, &row, sizeof row, where);
  if (warp.lanes != kWarp) fail("ldmatrix by an incomplete warp", where);
  // PTX ISA 9.7.14.5.15: lanes 8i..8i+7 hold the rows' addresses of matrix i; lane l gets elements
  // (l / 4, 2 * (l % 4) + {0, 1}) of each matrix, or those of the transposed one.
  const auto at = [&](unsigned matrix, unsigned i, unsigned j) {
    std::uint16_t value = 0;
    std::memcpy(&value, static_cast<const std::byte*>(warp.of<const void*>(matrix * 8 + i)) + 2 * j, 2);
    return std::uint32_t{value};
  };
  const unsigned group = lane() / 4, member = lane() % 4;
  for (unsigned m = 0; m < matrices; ++m)
    r[m] = transposed ? at(m, 2 * member, group) | at(m, 2 * member + 1, group) << 16
                      : at(m, group, 2 * member) | at(m, group, 2 * member + 1) << 16;
  // No lane may overwrite a row before the others have read it.
  exchange("ldmatrix", &row, sizeof row, where);
}

void cp_async_16(void* shared, const void* global, bool valid, Source where) {
  if (!aligned(shared, 16)) fail("cp.async to shared memory that is not 16-byte aligned", where);
  if (!in_shared_memory(shared, 16)) fail("cp.async to outside shared memory", where);
  if (!aligned(global, 16)) fail("cp.async from global memory that is not 16-byte aligned", where);
  std::memset(shared, 0xff, 16);
  copies_of_threads[thread_in_block()].open.push_back({shared, global, valid});
}

void cp_async_commit() {
  Copies& own = copies_of_threads[thread_in_block()];
  own.groups.push_back(std::move(own.open));
  own.open.clear();
}

void cp_async_wait(unsigned groups_left) {
  std::vector<std::vector<Copy>>& groups = copies_of_threads[thread_in_block()].groups;
  while (groups.size() > groups_left) {
    for (const Copy& copy : groups.front()) {
      if (copy.valid)
        std::memcpy(copy.shared, copy.global, 16);
      else
        std::memset(copy.shared, 0, 16);
    }
    groups.erase(groups.begin());
  }
}

void end_of_thread() {
  if (!copies_of_threads.empty()) copies_of_threads.erase(thread_in_block());
}

}  // namespace emulation
