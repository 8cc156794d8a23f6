#pragma once

#include <cstdint>
#include <source_location>

/// What kernels/cuda/ptx.cuh wraps, by the fragment layouts of the PTX ISA. All are warp collectives except
/// cp_async_*.
namespace emulation {

using Source = std::source_location;

void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                  Source where = Source::current());
/// r[0..matrices): the 8x8 matrices of 16-bit elements, whose rows lanes 8i..8i+7 point to.
void load_matrix(std::uint32_t* r, unsigned matrices, bool transposed, const void* row,
                 Source where = Source::current());

/// Until the wait, the destination holds NaNs: so reading too early and overwriting too early both show.
void cp_async_16(void* shared, const void* global, bool valid, Source where = Source::current());
void cp_async_commit();
void cp_async_wait(unsigned groups_left);

}  // namespace emulation
