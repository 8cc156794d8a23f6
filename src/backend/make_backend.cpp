#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <string_view>

#include "backend/backend.h"
#include "backend/cpu_backend.h"
#include "backend/cuda_plugin.h"
#include "base/error.h"
#include "base/log.h"
#include "base/plugin.h"

namespace gptq {
namespace {

#ifdef GPTQ_HPC_CUDA
constexpr bool kBuiltWithCuda = true;
#else
constexpr bool kBuiltWithCuda = false;
#endif

/// A plugin was named by hand: then it counts even if this program was built without it.
bool plugin_named() {
  const char* path = std::getenv(kCudaPluginVariable);
  return path != nullptr && *path != '\0';
}

std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options) {
  const Plugin plugin = load_plugin(kCudaPluginFile, kCudaPluginVariable, kCudaPluginEntry);
  if (plugin.entry == nullptr) {
    const bool no_libraries = plugin.problem.starts_with("cannot be opened");
    throw DeviceError("the CUDA plugin {} {}{}; or set compute.backend to cpu", plugin.path, plugin.problem,
                      no_libraries
                          ? fmt::format(". It needs cuBLASLt, cuSOLVER and the runtime of CUDA {}: load "
                                        "your site's CUDA module or put their folder into "
                                        "LD_LIBRARY_PATH",
                                        kCudaMajor)
                          : "");
  }
  return std::unique_ptr<Backend>(reinterpret_cast<CudaPluginEntry>(plugin.entry)(options));
}

/// This process could open a GPU of this machine, whether or not CUDA is there.
bool gpu_present() {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (visible != nullptr && (*visible == '\0' || std::string_view(visible) == "-1")) return false;
  for (int number = 0; number < 32; ++number) {
    const int file = open(fmt::format("/dev/nvidia{}", number).c_str(), O_RDWR | O_CLOEXEC);
    if (file >= 0) {
      close(file);
      return true;
    }
  }
  return false;
}

std::unique_ptr<Backend> make_best_backend(const BackendOptions& options) {
  if (kBuiltWithCuda || plugin_named()) {
    try {
      return make_cuda_backend(options);
    } catch (const DeviceError& error) {
      if (gpu_present() || plugin_named()) {
        log::warn("the CPU computes, though compute.backend is auto and CUDA might have been used: {}",
                  error.what());
      } else {
        log::debug("no CUDA here: {}", error.what());
      }
    }
  }
  return make_cpu_backend(options.threads);
}

}  // namespace

std::string built_backends() {
  return kBuiltWithCuda ? "cpu, cuda" : "cpu";
}

std::unique_ptr<Backend> make_backend(const BackendOptions& options) {
  if (options.threads < 0)
    throw UsageError("compute.threads is {}; it must be 0 (all cores) or more", options.threads);
  if (options.name == "auto") return make_best_backend(options);
  if (options.name == "cpu") return make_cpu_backend(options.threads);
  if (options.name == "cuda") {
    if (kBuiltWithCuda || plugin_named()) return make_cuda_backend(options);
    throw DeviceError(
        "compute.backend is cuda, but this program was built without CUDA (cmake --preset cuda builds it); "
        "set it to cpu or auto");
  }
  throw UsageError("compute.backend is \"{}\"; known: auto, cpu, cuda", options.name);
}

}  // namespace gptq
