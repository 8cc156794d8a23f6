#pragma once

#include "comm/communicator.h"
#include "comm/device_collectives.h"

namespace gptq {

/// The ranks that share the rows of a stage group. Those that hold the block have its sums and its weights;
/// the others, if there are any, help: what they need comes from the root.
struct Team {
  Communicator& comm;
  DeviceCollectives& device;  ///< of the same ranks
  int root = 0;               ///< the first of the ranks that hold the block: it factors
  int holders = 0;            ///< so many of them, one behind the other; 0: all ranks

  bool is_root() const { return comm.rank() == root; }
  bool has_helpers() const { return holders > 0 && holders < comm.size(); }
  bool helps(int rank) const { return has_helpers() && (rank < root || rank >= root + holders); }
};

}  // namespace gptq
