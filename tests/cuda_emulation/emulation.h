#pragma once

/// Runs CUDA kernels on the CPU, so that their logic is tested where there is no GPU. Force-included before a
/// .cu file that g++ compiles as C++: it includes the toolkit's own headers for types and signatures and adds
/// what nvcc would. To try one file by hand, with a main() of your own in try.cpp (from the repository root):
///
///   g++ -std=c++20 -O1 -g -DGPTQ_CUDA_EMULATION -I. -Isrc -isystem $CUDA_HOME/include
///     -include tests/cuda_emulation/emulation.h -x c++ kernels/cuda/rotary.cu try.cpp -x none
///     tests/cuda_emulation/*.cpp OTHER_SOURCES -o try
///
/// try.cpp may hold kernels too; add -Wno-unknown-pragmas where warnings are on. Nothing of CUDA's libraries
/// is linked: runtime.cpp, blas.cpp and solver.cpp stand in for them.
///
/// How a block runs: one OS thread; each CUDA thread is a fiber, resumed in a chosen order and switched at
/// barriers and warp collectives (block.h). Misuse aborts with kernel, block, thread and place. Settings, by
/// environment variable:
///   GPTQ_EMULATION_ORDER=forward|reverse|random:SEED  order of blocks, and of threads between barriers
///   GPTQ_EMULATION_STREAMS=eager|lazy|random:SEED     when work put into streams runs (streams.h)
///   GPTQ_EMULATION_DEVICES=COUNT, GPTQ_EMULATION_MEMORY_BYTES=OF_EACH
///   GPTQ_EMULATION_FAULT=DEVICE:NUMBER                the device's NUMBER-th kernel fails: nothing runs from then
///                                                     on, and every call says cudaErrorIllegalAddress
///
/// Rules for kernels beyond CUDA's own: alignas goes before __shared__; a static shared array has no
/// initialiser, and lies in a function of a namespace named cuda (only those are filled with NaNs before each
/// block; so host code there has no function-local thread_local variables).

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "tests/cuda_emulation/block.h"
#include "tests/cuda_emulation/intrinsics.h"
#include "tests/cuda_emulation/launch.h"
#include "tests/cuda_emulation/ptx_emulation.h"

#undef __shared__
#define __shared__ static thread_local
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__
#undef __maxnreg__
#define __maxnreg__(...)

// Not macros: cudaLaunchConfig_t has members of these names.
inline const uint3& threadIdx = emulation::place.thread;
inline const uint3& blockIdx = emulation::place.block;
inline const dim3& blockDim = emulation::place.threads;
inline const dim3& gridDim = emulation::place.blocks;
inline constexpr int warpSize = 32;

// The toolkit's template forgets the parameters' types before it calls the library.
#define cudaLaunchKernelEx ::emulation::launch_kernel
