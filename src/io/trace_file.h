#pragma once

#include <string>
#include <vector>

#include "base/trace.h"

namespace gptq {

/// One rank's events, with what its clock is ahead of the first rank's.
struct RankTrace {
  std::string host;
  double clock_ahead = 0;
  std::vector<TraceEvent> events;
};

/// A timeline in Chrome's trace event format, as Perfetto and chrome://tracing show it: a process a rank, its
/// lanes as threads, time from the first event on.
std::string chrome_trace(const std::vector<RankTrace>& ranks);

/// For messages between ranks.
std::string to_json(const RankTrace& trace);
RankTrace rank_trace_from_json(const std::string& text);

}  // namespace gptq
