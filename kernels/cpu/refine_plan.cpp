#include "kernels/cpu/refine_plan.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/cpu/isa/isa.h"

namespace gptq {
namespace {

/// Is every group's run of visited columns unbroken?
bool groups_are_runs(const SolveColumns& columns) {
  std::vector<std::uint8_t> seen(static_cast<std::size_t>(columns.groups), 0);
  std::int32_t last = -1;
  for (const std::int32_t column : columns.order) {
    const std::int32_t group = columns.group_of[static_cast<std::size_t>(column)];
    if (group != last && seen[static_cast<std::size_t>(group)]++ != 0) return false;
    last = group;
  }
  return true;
}

SolveOptions with_batches_for(const SolveColumns& columns, SolveOptions options) {
  options.refit_every_group = groups_are_runs(columns);
  return options;
}

}  // namespace

const RefineTable& refine_table() {
  static const RefineTable* const tables[] = {&isa_v2::refine_table, &isa_v3::refine_table,
                                              &isa_v4::refine_table};
  return *tables[isa_level()];
}

RefinePlan::RefinePlan(const SolveColumns& columns, const float* h_, const SolveOptions& options,
                       const RefineOptions& refine_)
    : h(h_),
      refine(refine_),
      options_(with_batches_for(columns, options)),
      schedule(columns, options_),
      scattered(!options_.refit_every_group),
      positions(static_cast<std::size_t>(columns.groups)) {
  GPTQ_EXPECT(h != nullptr && refine.sweeps >= 0);
  for (std::int64_t p = 0; p < n(); ++p)
    positions[static_cast<std::size_t>(schedule.group[static_cast<std::size_t>(p)])].push_back(
        static_cast<std::int32_t>(p));
  for (const auto& group : positions) widest = std::max(widest, static_cast<std::int64_t>(group.size()));
  for (const SolveBatch& batch : schedule.batches) {
    std::vector<float> block(static_cast<std::size_t>(batch.count * kSolveBatch));
    for (std::int64_t i = 0; i < batch.count; ++i)
      std::copy_n(row_of_h(batch.first + i) + batch.first, batch.count, block.data() + i * kSolveBatch);
    blocks.push_back(std::move(block));
  }
}

}  // namespace gptq
