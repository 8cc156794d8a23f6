#include "backend/cpu_backend.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>

#include "base/error.h"
#include "base/process.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/machine.h"

namespace gptq {
namespace {

DeviceBuffer host_memory(std::size_t bytes) {
  auto owner = std::make_unique<HostBuffer>(bytes);
  std::byte* data = owner->data();
  return {data, bytes, owner.release(),
          [](void* held, std::byte*, std::size_t) { delete static_cast<HostBuffer*>(held); }};
}

/// What the kernel would still give to this machine's processes, caches given up.
std::int64_t available_memory_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  std::int64_t kibibytes = 0;
  while (meminfo >> key >> kibibytes) {
    if (key == "MemAvailable:") return kibibytes * 1024;
    meminfo.ignore(80, '\n');
  }
  return host_memory_bytes();
}

void plain_copy(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, bytes);
}

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

  bool shares_host_memory() const override { return true; }
  std::string device_id() const override { return {}; }
  std::int64_t memory_bytes() const override { return host_memory_bytes(); }
  std::int64_t free_memory_bytes() const override {
    return std::min(available_memory_bytes(),
                    std::max<std::int64_t>(0, host_memory_bytes() - current_memory_bytes()));
  }
  std::int64_t peak_memory_bytes() const override { return gptq::peak_memory_bytes(); }

  DeviceBuffer allocate(std::size_t bytes) override { return host_memory(bytes); }
  DeviceBuffer allocate_host(std::size_t bytes) override { return host_memory(bytes); }
  void* scratch(int slot, std::size_t bytes) override {
    HostBuffer& buffer = scratch_[slot];
    if (buffer.size() < bytes) {
      buffer = HostBuffer();
      buffer = HostBuffer(bytes);
    }
    return buffer.data();
  }

  void upload(void* to, const void* from_host, std::size_t bytes) override {
    plain_copy(to, from_host, bytes);
  }
  void download(void* to_host, const void* from, std::size_t bytes) override {
    plain_copy(to_host, from, bytes);
  }
  void copy(void* to, const void* from, std::size_t bytes) override { plain_copy(to, from, bytes); }
  void set_zero(void* memory, std::size_t bytes) override {
    if (bytes > 0) std::memset(memory, 0, bytes);
  }

  void copy_in_queue(Queue, void* to, const void* from, std::size_t bytes) override {
    plain_copy(to, from, bytes);
  }
  void order_after(Queue, Queue) override {}
  void synchronize() override {}
  void* native_queue() override { return nullptr; }

  void enter_range(const char*) override {}
  void leave_range() override {}

 private:
  CpuKernels kernels_;
  std::map<int, HostBuffer> scratch_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(int threads) {
  return std::make_unique<CpuBackend>(threads > 0 ? threads : available_cores());
}

}  // namespace gptq
