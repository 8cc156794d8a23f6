#include "base/trace.h"

#include <chrono>
#include <utility>

namespace gptq {

double trace_clock() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

void Trace::add(TraceEvent event) {
  const std::lock_guard lock(mutex_);
  events_.push_back(std::move(event));
}

std::vector<TraceEvent> Trace::events() const {
  const std::lock_guard lock(mutex_);
  return events_;
}

TraceScope::TraceScope(Trace* trace, std::string name, std::int64_t block, TraceLane lane)
    : trace_(trace), event_{std::move(name), trace_clock(), 0, block, lane} {}

TraceScope::~TraceScope() {
  if (trace_ == nullptr) return;
  event_.seconds = trace_clock() - event_.begin;
  trace_->add(std::move(event_));
}

}  // namespace gptq
