#pragma once

#include <chrono>
#include <string>

namespace gptq {

/// Seconds since construction or the last restart, on a clock that never jumps.
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  /// Seconds so far; starts anew.
  double lap() {
    const double elapsed = seconds();
    start_ = Clock::now();
    return elapsed;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

std::string utc_now();  ///< "2026-11-21T17:00:00Z"

}  // namespace gptq
