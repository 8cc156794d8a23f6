#pragma once

#include <string>
#include <vector>

#include "tools/bench/kernel_bench_measure.h"

namespace gptq::bench {

/// Printed line by line while the cases run, so that figures are there even if the run is cut short.
void print_head(const Bench& bench, const Limits& limits);
/// explained: say what is counted, as for the first case of an operation.
void print_result(const Result& result, const Limits& limits, bool explained);

/// All figures in SI units; format: docs/benchmarks/kernels.md.
std::string to_json(const Bench& bench, const Limits& limits, const std::vector<Result>& results,
                    const std::string& command, double seconds);

}  // namespace gptq::bench
