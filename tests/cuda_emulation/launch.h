#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <tuple>
#include <utility>

namespace emulation {

/// Puts a grid into the configuration's stream. Checks the launch as the runtime does.
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread_body);

/// Remembers an error for cudaGetLastError, and returns it.
cudaError_t note(cudaError_t status);

/// cudaSuccess; once a kernel has failed (GPTQ_EMULATION_FAULT), what every call of a lost device returns.
cudaError_t standing();

template <typename... Parameters, typename... Arguments>
cudaError_t launch_kernel(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                          Arguments&&... arguments) {
  std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
  return launch(*config, reinterpret_cast<const void*>(kernel),
                [kernel, values = std::move(values)] { std::apply(kernel, values); });
}

}  // namespace emulation
