#include "pipeline/grid_choice.h"

#include <fmt/format.h>

#include <string>

namespace gptq {
namespace {

/// The divisors of `ranks` next to a number that is none: "2 or 4".
std::string nearest_divisors(int number, int ranks) {
  int below = 0, above = 0;
  for (int divisor = 1; divisor <= ranks; ++divisor) {
    if (ranks % divisor != 0) continue;
    if (divisor < number) below = divisor;
    if (divisor > number && above == 0) above = divisor;
  }
  if (above == 0) return std::to_string(below);
  return fmt::format("{} or {}", below, above);
}

void require_divisor(const char* key, int number, int ranks) {
  if (ranks % number == 0) return;
  throw UsageError("{}: {} does not divide the number of ranks, {}; nearest that does: {}", key, number,
                   ranks, nearest_divisors(number, ranks));
}

}  // namespace

GridShape grid_of(const ParallelSection& section, int ranks) {
  if (section.stages > 0) require_divisor("parallel.stages", section.stages, ranks);
  if (section.replicas > 0) require_divisor("parallel.replicas", section.replicas, ranks);
  if (section.stages > 0 && section.replicas > 0 && section.stages * section.replicas != ranks) {
    throw UsageError(
        "parallel.stages: {} with parallel.replicas: {} makes {} ranks, but there are {}; leave one of them "
        "out, or start {} ranks",
        section.stages, section.replicas, section.stages * section.replicas, ranks,
        section.stages * section.replicas);
  }
  if (section.stages > 0) return {section.stages, ranks / section.stages};
  if (section.replicas > 0) return {ranks / section.replicas, section.replicas};
  return {1, ranks};
}

bool takes_turns(const JobConfig& job) {
  return job.quantization.method == "gptq" && job.quantization.propagation == "quantized";
}

bool stages_help(const JobConfig& job) {
  if (job.parallel.solvers != "world") return takes_turns(job) && job.parallel.solvers == "auto";
  if (takes_turns(job)) return true;
  throw UsageError(
      "parallel.solvers: world, but with {} every stage is busy with blocks of its own; leave "
      "parallel.solvers out",
      job.quantization.method == "rtn" ? "quantization.method rtn"
                                       : "quantization.propagation full_precision");
}

}  // namespace gptq
