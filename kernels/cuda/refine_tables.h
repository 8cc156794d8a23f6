#pragma once

#include <vector>

#include "base/device_buffer.h"
#include "kernels/cuda/solve_tables.h"
#include "kernels/solve_schedule.h"

/// Private to kernels/cuda.
namespace gptq::cuda {

/// What all slices of one refinement share.
struct RefineTables {
  RefineTables(CudaContext& context, const SolveColumns& columns, const SolveOptions& options);

  /// The positions of a group's columns on the device; of any group that is not visited within one batch.
  const int* positions_of(int group) const {
    return positions.as<int>() + starts[static_cast<std::size_t>(group)];
  }
  int width_of(int group) const {
    const auto at = static_cast<std::size_t>(group);
    return static_cast<int>(starts[at + 1] - starts[at]);
  }

 private:
  SolveOptions options_;  ///< borrowed by the schedule

 public:
  /// Are some group's columns not visited one after the other (static_groups with desc_act)? Batches then
  /// have a fixed width. Else groups start segments, as in a solve that searches their scales.
  bool scattered;
  SolveSchedule schedule;
  SolveTables solve;
  DeviceBuffer positions;
  std::vector<std::int64_t> starts;
  std::int64_t widest = 0;  ///< columns of the widest group that does not lie within a batch
};

}  // namespace gptq::cuda
