#include "backend/cpu_backend.h"

#include <map>

#include "base/error.h"
#include "base/process.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/machine.h"

namespace gptq {
namespace {

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(int threads) : kernels_(threads) {}

  std::string name() const override { return "cpu"; }
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
  return std::make_unique<CpuBackend>(threads > 0 ? threads : available_cores());
}

}  // namespace gptq
