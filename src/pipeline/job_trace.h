#pragma once

#include <string>

#include "base/trace.h"
#include "comm/communicator.h"

namespace gptq {

/// How far this rank's clock is ahead of the root's: nothing on the root's host, elsewhere as a barrier
/// tells, to within its latency. Collective.
double clock_ahead_of_root(Communicator& comm);

/// Brings all ranks' events to the root, which writes them as a timeline. Throws IoError on every rank.
/// Collective.
void write_trace(const std::string& path, const Trace& trace, double clock_ahead, Communicator& comm);

}  // namespace gptq
