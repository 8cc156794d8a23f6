#pragma once

#include <vector>

#include "base/device_buffer.h"
#include "kernels/cuda/solve_tasks.h"
#include "kernels/solve_schedule.h"

/// Private to kernels/cuda.
namespace gptq::cuda {

/// What all slices of one solve share, on the device.
struct SolveTables {
  /// r: null for round-to-nearest, which has no triangles.
  SolveTables(CudaContext& context, const SolveSchedule& schedule, const float* r);

  DeviceBuffer position, dead, group, weight, shrink;
  DeviceBuffer parts;                        ///< SolveParts of all batches, one behind the other
  std::vector<std::size_t> first;            ///< of each batch's parts
  DeviceBuffer group_columns, group_starts;  ///< positions of all groups' columns; without refit
  DeviceBuffer wide_starts;                  ///< (0, columns) for each segment that is solved ahead
  DeviceBuffer inverse, pivot;               ///< of each batch's triangle of R
  SolveGrid grid;

 private:
  void make_groups(CudaContext& context, const SolveSchedule& schedule);
  void make_parts(CudaContext& context, const SolveSchedule& schedule);
  void make_triangles(CudaContext& context, const SolveSchedule& schedule, const float* r);
};

}  // namespace gptq::cuda
