#pragma once

#include <memory>

#include "backend/backend.h"

namespace gptq {

/// threads: 0 means every core this process may run on.
std::unique_ptr<Backend> make_cpu_backend(int threads);

}  // namespace gptq
