#pragma once

#include <cstdint>

#include "backend/backend.h"

namespace gptq {

/// The device that a rank computes on, as far as a plan must know it; it need not be there.
struct PlannedDevice {
  bool separate = false;          ///< it has memory of its own; else it computes in the host's
  std::int64_t memory_bytes = 0;  ///< what a rank may take of it, the libraries' share included; if separate
  int ranks = 1;                  ///< that share it

  /// The device of a backend that has taken nothing of it yet but what its libraries need.
  static PlannedDevice of(const Backend& backend, int ranks_on_device);
  /// A GPU with so much memory that is not here; 0: none, the CPU.
  static PlannedDevice absent(std::int64_t total_bytes, int ranks_on_device, int ranks);
};

}  // namespace gptq
