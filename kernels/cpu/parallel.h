#pragma once

#include <omp.h>

#include <atomic>
#include <cstdint>
#include <exception>

namespace gptq {

/// Calls body(i) once for every i in [0, count) on up to `threads` threads, each taking the next i when it is
/// free. An exception ends the loop early and is rethrown here. What body(i) computes must not depend on the
/// thread.
template <typename Body>
void parallel_for(int threads, std::int64_t count, const Body& body) {
  std::exception_ptr failure;
  std::atomic<bool> failed = false;
  const int team = static_cast<int>(count < threads ? count : threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(team < 1 ? 1 : team)
  for (std::int64_t i = 0; i < count; ++i) {
    if (failed.load(std::memory_order_relaxed)) continue;
    try {
      body(i);
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace gptq
