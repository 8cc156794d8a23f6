#include "backend/backend.h"
#include "backend/cpu_backend.h"
#include "base/error.h"

namespace gptq {

std::string built_backends() {
  return "cpu";
}

std::unique_ptr<Backend> make_backend(const BackendOptions& options) {
  if (options.threads < 0)
    throw UsageError("compute.threads is {}; it must be 0 (all cores) or more", options.threads);
  if (options.name == "auto" || options.name == "cpu") return make_cpu_backend(options.threads);
  if (options.name == "cuda") {
    throw DeviceError(
        "compute.backend is cuda, but this program was built without CUDA; set it to cpu or auto");
  }
  throw UsageError("compute.backend is \"{}\"; known: auto, cpu, cuda", options.name);
}

}  // namespace gptq
