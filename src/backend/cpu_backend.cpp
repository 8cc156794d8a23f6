#include "backend/cpu_backend.h"

#include <malloc.h>

#include <map>

#include "base/error.h"
#include "base/process.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/machine.h"

namespace gptq {
namespace {

/// glibc gives large buffers back to the kernel at every free and gets them back as fresh pages: half of a
/// naive engine's time goes into page faults. Keep them, up to the largest sizes that glibc lets one set.
void keep_freed_memory() {
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
  // One arena for all threads: blocks are read on a thread of their own, and memory freed in one arena is of
  // no use to another.
  mallopt(M_ARENA_MAX, 1);
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(int threads) : kernels_(threads) {}

  std::string describe() const override {
    return fmt::format("cpu: {} thread{}, {}", threads(), threads() == 1 ? "" : "s", machine_name());
  }
  bool fast_bf16() const override { return machine_has_fast_bf16(); }
  int threads() const override { return kernels_.threads(); }
  Kernels& kernels() override { return kernels_; }

  void* scratch(int slot, std::size_t bytes) override {
    HostBuffer& buffer = scratch_[slot];
    if (buffer.size() < bytes) {
      buffer = HostBuffer();
      buffer = HostBuffer(bytes);
    }
    return buffer.data();
  }

 private:
  CpuKernels kernels_;
  std::map<int, HostBuffer> scratch_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(int threads) {
  keep_freed_memory();
  return std::make_unique<CpuBackend>(threads > 0 ? threads : available_cores());
}

}  // namespace gptq
