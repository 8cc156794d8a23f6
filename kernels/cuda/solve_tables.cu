#include "kernels/cuda/solve_tables.h"

#include <algorithm>

#include "kernels/cuda/cuda_context.h"

namespace gptq::cuda {
namespace {

template <typename T>
DeviceBuffer to_device(CudaContext& context, const std::vector<T>& values) {
  DeviceBuffer buffer = context.allocate(std::max<std::size_t>(values.size(), 1) * sizeof(T));
  if (!values.empty()) context.upload(buffer.data(), values.data(), values.size() * sizeof(T));
  return buffer;
}

}  // namespace

SolveTables::SolveTables(CudaContext& context, const SolveSchedule& schedule, const float* r) {
  position = to_device(context, schedule.position);
  dead = to_device(context, schedule.columns.dead);
  group = to_device(context, schedule.group);
  weight = to_device(context, schedule.weight);
  shrink = to_device(context, schedule.shrink);
  grid = {shrink.as<float>(),         static_cast<int>(schedule.shrink.size()),
          schedule.max_code,          schedule.options.sym ? 1 : 0,
          schedule.two_zeros ? 1 : 0, static_cast<float>(schedule.options.norm)};
  if (!schedule.options.refit_every_group) make_groups(context, schedule);
  make_parts(context, schedule);
  if (r != nullptr) make_triangles(context, schedule, r);
}

void SolveTables::make_groups(CudaContext& context, const SolveSchedule& schedule) {
  std::vector<int> columns;
  std::vector<int> starts{0};
  for (const auto& positions : schedule.group_positions) {
    columns.insert(columns.end(), positions.begin(), positions.end());
    starts.push_back(static_cast<int>(columns.size()));
  }
  group_columns = to_device(context, columns);
  group_starts = to_device(context, starts);
}

void SolveTables::make_parts(CudaContext& context, const SolveSchedule& schedule) {
  std::vector<SolvePart> all;
  std::vector<int> wide;
  for (const SolveBatch& batch : schedule.batches) {
    first.push_back(all.size());
    for (const SolveSegment& segment : batch.segments) {
      const bool search = segment.search_count > 0 && segment.search_count == segment.count;
      all.push_back(
          {static_cast<int>(segment.first - batch.first), static_cast<int>(segment.count), search ? 1 : 0});
      wide.push_back(0);
      wide.push_back(static_cast<int>(segment.search_count));
    }
  }
  parts = to_device(context, all);
  wide_starts = to_device(context, wide);
}

void SolveTables::make_triangles(CudaContext& context, const SolveSchedule& schedule, const float* r) {
  std::vector<int> start, count;
  for (const SolveBatch& batch : schedule.batches) {
    start.push_back(static_cast<int>(batch.first));
    count.push_back(static_cast<int>(batch.count));
  }
  const DeviceBuffer firsts = to_device(context, start);
  const DeviceBuffer counts = to_device(context, count);
  inverse = context.allocate(start.size() * kSolveTile * kSolveTile * sizeof(float));
  pivot = context.allocate(start.size() * kSolveTile * sizeof(float));
  invert_triangles(context, r, schedule.columns.n, firsts.as<int>(), counts.as<int>(),
                   static_cast<int>(start.size()), inverse.as<float>(), pivot.as<float>());
}

}  // namespace gptq::cuda
