#include "kernels/cpu/cpu_kernels.h"

#include <omp.h>

#include <array>

#include "base/error.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/scratch.h"

namespace gptq {

CpuKernels::CpuKernels(int threads) : threads_(threads) {
  GPTQ_EXPECT(threads >= 1);
  omp_set_max_active_levels(1);
  keep_library_on_this_thread();
}

void* scratch_bytes(Scratch purpose, std::size_t bytes) {
  thread_local std::array<HostBuffer, static_cast<std::size_t>(Scratch::count)> buffers;
  HostBuffer& buffer = buffers[static_cast<std::size_t>(purpose)];
  if (buffer.size() < bytes) {
    buffer = HostBuffer();  // free first: the old contents are not wanted
    buffer = HostBuffer(bytes);
  }
  return buffer.data();
}

}  // namespace gptq
