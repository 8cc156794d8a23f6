#include "kernels/cuda/refine_tables.h"

#include <algorithm>

namespace gptq::cuda {
namespace {

bool groups_are_scattered(const SolveColumns& columns) {
  std::vector<std::uint8_t> seen(static_cast<std::size_t>(columns.groups), 0);
  std::int32_t last = -1;
  for (const std::int32_t column : columns.order) {
    const std::int32_t group = columns.group_of[static_cast<std::size_t>(column)];
    if (group != last && seen[static_cast<std::size_t>(group)]++ != 0) return true;
    last = group;
  }
  return false;
}

SolveOptions with_batches_of_groups(SolveOptions options, bool wanted) {
  options.refit_every_group = wanted;
  return options;
}

}  // namespace

RefineTables::RefineTables(CudaContext& context, const SolveColumns& columns, const SolveOptions& options)
    : options_(with_batches_of_groups(options, !groups_are_scattered(columns))),
      scattered(!options_.refit_every_group),
      schedule(columns, options_),
      solve(context, schedule, nullptr) {
  std::vector<std::vector<int>> of_group(static_cast<std::size_t>(columns.groups));
  for (std::size_t p = 0; p < schedule.group.size(); ++p)
    of_group[static_cast<std::size_t>(schedule.group[p])].push_back(static_cast<int>(p));
  std::vector<int> all;
  starts.push_back(0);
  for (const std::vector<int>& group : of_group) {
    all.insert(all.end(), group.begin(), group.end());
    starts.push_back(static_cast<std::int64_t>(all.size()));
    const auto width = static_cast<std::int64_t>(group.size());
    if (scattered || width > SolveOptions::kColumnBatch) widest = std::max(widest, width);
  }
  positions = context.allocate(all.size() * sizeof(int));
  context.upload(positions.data(), all.data(), all.size() * sizeof(int));
}

}  // namespace gptq::cuda
