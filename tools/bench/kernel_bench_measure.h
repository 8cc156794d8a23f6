#pragma once

#include <string>
#include <vector>

#include "base/clock.h"
#include "tools/bench/kernel_bench.h"

namespace gptq::bench {

/// How long a case is measured. A sample is `launches` runs and one synchronize(), so many that it lasts
/// sample_seconds.
struct Effort {
  double sample_seconds = 0.02;
  double case_seconds = 1;  ///< no further sample once this has passed
  int fewest_samples = 3;
  int most_samples = 15;
  int most_launches = 500;
};

struct Times {
  double median = 0, fastest = 0, slowest = 0;  ///< seconds of one run
  int samples = 0;
  int launches = 0;
};

struct Result {
  enum class State { measured, failed, skipped };

  const Case* what = nullptr;
  State state = State::skipped;
  std::string problem;  ///< why it failed
  Times times;
  double floor_seconds = 0;  ///< 0: no limit of this machine was measured for it

  double flops_per_second() const { return what->cost.flops / times.median; }
  double bytes_per_second() const { return what->cost.bytes / times.median; }
  double share() const { return floor_seconds / times.median; }
};

Result skipped(const Case& what);

/// Runs once to warm up, then in samples.
Times measure(Backend& backend, const std::function<void()>& run, const Effort& effort);

/// What this machine does best. The fastest sample counts.
Limits measure_limits(const Bench& bench, const Effort& effort);

/// One case from its data to its times; errors and wrong results make it failed.
Result run_case(const Bench& bench, const Case& what, const Limits& limits, const Effort& effort);

}  // namespace gptq::bench
