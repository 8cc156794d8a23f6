#pragma once

#include <cuda_bf16.h>

#include <cstdint>

/// The only inline PTX of the project: tensor-core products, matrix loads and asynchronous copies of sm_80.
/// Under emulation the same functions follow the PTX ISA's tables on the CPU (tests/cuda_emulation). "PTX
/// ISA" refers to NVIDIA's "Parallel Thread Execution ISA", chapter 9.7.
///
/// Fragments of m16n8k16 with bf16 inputs, lane = 4 * group + member (PTX ISA 9.7.14.5.8):
///   a[0] = A(group,     2*member + {0,1})    a[2] = A(group,     8 + 2*member + {0,1})
///   a[1] = A(group + 8, 2*member + {0,1})    a[3] = A(group + 8, 8 + 2*member + {0,1})
///   b[0] = B(2*member + {0,1}, group)        b[1] = B(8 + 2*member + {0,1}, group)
///   d[0], d[1] = D(group, 2*member + {0,1})  d[2], d[3] = D(group + 8, 2*member + {0,1})
/// The lower index of a pair lies in the lower 16 bits.
namespace gptq::cuda {

#ifndef GPTQ_CUDA_EMULATION

/// Shared-state-space address, as PTX wants it.
__device__ __forceinline__ std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

/// D += A·B for one warp: A (16, 16) and B (16, 8) bf16, D (16, 8) f32. By all 32 lanes.
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4],
                                             const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Loads four 8x8 matrices of 16-bit elements; lane 8i + j points to row j of matrix i: 16 bytes of shared
/// memory, 16-byte aligned. r[i] of lane 4g + m: elements 2m and 2m+1 of row g of matrix i. By all 32 lanes.
__device__ __forceinline__ void ldmatrix_x4(std::uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}
/// The same of the transposed matrices: r[i] of lane 4g + m: elements (2m, g) and (2m+1, g) of matrix i.
__device__ __forceinline__ void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}
/// Two matrices: lanes 0..15 point to their rows; the other lanes' pointers must be valid too, but are not
/// used.
__device__ __forceinline__ void ldmatrix_x2(std::uint32_t (&r)[2], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared_row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared_row))
               : "memory");
}

/// Starts a copy of 16 bytes from global to shared memory past the registers and the L1 cache, both 16-byte
/// aligned; without `valid`, `global` is not read and zeros are written. Not a collective.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
               : "memory");
}
/// Makes a group of the thread's copies since the last commit.
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
/// Waits until at most kLeft of the thread's latest groups are unfinished. Other threads see the copies after
/// a barrier that follows.
template <int kLeft>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kLeft) : "memory");
}

/// 2^x with a relative error below 2^-22, one instruction where exp2f needs four; results and arguments below
/// the normal numbers become 0.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

#else

using emulation::cp_async_16;
using emulation::cp_async_commit;
using emulation::mma_m16n8k16;

inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* shared_row,
                        emulation::Source where = emulation::Source::current()) {
  emulation::load_matrix(r, 4, false, shared_row, where);
}
inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* shared_row,
                              emulation::Source where = emulation::Source::current()) {
  emulation::load_matrix(r, 4, true, shared_row, where);
}
inline void ldmatrix_x2(std::uint32_t (&r)[2], const void* shared_row,
                        emulation::Source where = emulation::Source::current()) {
  emulation::load_matrix(r, 2, false, shared_row, where);
}
inline void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* shared_row,
                              emulation::Source where = emulation::Source::current()) {
  emulation::load_matrix(r, 2, true, shared_row, where);
}
inline float fast_exp2(float x) {
  return exp2f(x);
}
template <int kLeft>
void cp_async_wait() {
  emulation::cp_async_wait(kLeft);
}

#endif

}  // namespace gptq::cuda
