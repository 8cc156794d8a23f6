#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace gptq {

/// Something that a rank was busy with. Seconds are of the machine's monotonic clock.
struct TraceEvent {
  std::string name;
  double begin = 0, seconds = 0;
  std::int64_t block = -1;  ///< -1: of none
  int lane = 0;             ///< of TraceLane
};

/// What goes on beside each other in a rank.
enum TraceLane : int { work, reading, writing };

/// What one rank did when, for `--trace`. From any thread.
class Trace {
 public:
  void add(TraceEvent event);
  std::vector<TraceEvent> events() const;

 private:
  mutable std::mutex mutex_;
  std::vector<TraceEvent> events_;
};

/// Seconds of the clock of TraceEvent.
double trace_clock();

/// Adds an event that lasts as long as this object, if there is a trace.
class TraceScope {
 public:
  TraceScope(Trace* trace, std::string name, std::int64_t block, TraceLane lane);
  ~TraceScope();
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  Trace* trace_;
  TraceEvent event_;
};

}  // namespace gptq
