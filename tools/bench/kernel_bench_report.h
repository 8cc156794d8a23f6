#pragma once

#include <string>
#include <vector>

#include "tools/bench/kernel_bench_measure.h"

namespace gptq::bench {

/// Printed line by line while the cases run, so that figures are there even if the run is cut short.
void print_head(const Bench& bench, const Limits& limits);
void print_result(const Result& result, const Limits& limits);

/// All figures in SI units; format: docs/benchmarks/kernels.md.
std::string to_json(const Bench& bench, const Limits& limits, const std::vector<Result>& results,
                    const std::string& command, double seconds);

}  // namespace gptq::bench
