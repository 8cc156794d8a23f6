#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <utility>

#include "base/tensor.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/cuda_context.h"

/// What all CUDA sources share. They are also compiled as plain C++ against tests/cuda_emulation, which runs
/// every kernel on the CPU thread by thread: so kernels are started with launch() instead of <<<>>>, dynamic
/// shared memory comes from dynamic_shared<T>(), static shared arrays are declared `__shared__ T name[N];`,
/// and inline PTX stays in ptx.cuh.
namespace gptq::cuda {

using bfloat16 = __nv_bfloat16;

constexpr unsigned kAllLanes = 0xffffffffu;

/// The block's dynamic shared memory, 128-byte aligned.
template <typename T>
__device__ inline T* dynamic_shared() {
#ifdef GPTQ_CUDA_EMULATION
  return reinterpret_cast<T*>(emulation::dynamic_shared_memory());
#else
  extern __shared__ __align__(128) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
#endif
}

/// Puts a kernel into a stream. shared: bytes of dynamic shared memory, raised beyond 48 KiB where needed.
template <typename... Parameters, typename... Arguments>
void launch(cudaStream_t stream, void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared,
            Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared > 48 * 1024) {
    GPTQ_CUDA(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  }
  // Without the members' names: the emulation gives gridDim and blockDim another meaning.
  const cudaLaunchConfig_t config{grid, block, shared, stream, nullptr, 0};
  GPTQ_CUDA(cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...));
}

/// The same in the compute queue.
template <typename... Parameters, typename... Arguments>
void launch(const CudaContext& context, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            std::size_t shared, Arguments&&... arguments) {
  launch(context.stream(), kernel, grid, block, shared, std::forward<Arguments>(arguments)...);
}

inline unsigned blocks_for(std::int64_t items, std::int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(bfloat16 x) {
  return __bfloat162float(x);
}
__device__ inline float to_float(__half x) {
  return __half2float(x);
}
template <typename T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline bfloat16 from_float<bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

/// Sums over the warp in a fixed order; every lane gets the result.
template <typename T>
__device__ inline T warp_sum(T x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

/// Calls `body(T())` with the element type that `dtype` names (f32 or bf16).
template <typename Body>
void with_compute_type(DType dtype, Body&& body) {
  if (dtype == DType::bf16)
    body(bfloat16());
  else
    body(float());
}

}  // namespace gptq::cuda
