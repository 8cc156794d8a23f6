#pragma once

#include <spdlog/spdlog.h>

#include <string>

namespace gptq::log {

/// Sets up logging once, before anything logs. Ranks other than `rank 0` log warnings and errors only;
/// every line carries the rank when there is more than one.
void start(int rank, int ranks, const std::string& level);

using spdlog::debug;
using spdlog::error;
using spdlog::info;
using spdlog::warn;

}  // namespace gptq::log
