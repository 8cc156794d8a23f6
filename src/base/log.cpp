#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <algorithm>

namespace gptq::log {

void start(int rank, int ranks, const std::string& level) {
  auto logger = spdlog::stderr_color_mt("gptq-hpc-rank-" + std::to_string(rank));
  const std::string who = ranks > 1 ? fmt::format("[rank {}] ", rank) : "";
  logger->set_pattern("%Y-%m-%d %H:%M:%S %^%-5l%$ " + who + "%v");
  const auto wanted = spdlog::level::from_str(level);
  logger->set_level(rank == 0 ? wanted : std::max(wanted, spdlog::level::warn));
  spdlog::set_default_logger(logger);
}

}  // namespace gptq::log
