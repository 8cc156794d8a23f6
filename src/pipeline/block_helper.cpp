#include "pipeline/block_helper.h"

#include <utility>

#include "pipeline/chosen_layers.h"

namespace gptq {

/// Those between the rounds of the group's sum: as many as where the sum is made.
void BlockHelper::pass_safe_points(const SafePoint& here, const std::vector<std::int64_t>& summed) const {
  const std::int64_t rounds = rounds_of_sum(most_chunks_to_sum(tools_.chunks, tools_.replicas, summed));
  for (std::int64_t round = 1; round < rounds; ++round) tools_.on_safe_point(here);
}

std::vector<LayerStatistics> BlockHelper::run(std::int64_t block, BlockStart start) {
  // Those of an earlier attempt count here as they do where the block is held.
  std::vector<LayerStatistics> statistics = std::move(start.finished.statistics);
  const BlockLayout& layout = tools_.model.layout(block);
  for (std::int64_t group = start.group; group < layout.groups(); ++group) {
    SafePoint here;
    here.block = block;
    here.group = group;
    if (group > start.group) tools_.on_safe_point(here);
    const std::vector<LayerToQuantize> layers =
        chosen_layers(tools_.model, tools_.recipe, layout.group(group), block);
    if (layers.empty()) continue;
    const bool resumed = group == start.group;
    pass_safe_points(here, resumed ? start.sum.done_anywhere : std::vector<std::int64_t>());
    if (tools_.solver == nullptr) continue;
    const SolvedStage solved = tools_.solver->help(layers, block);
    tools_.on_layers(solved.statistics);
    statistics.insert(statistics.end(), solved.statistics.begin(), solved.statistics.end());
  }
  return statistics;
}

}  // namespace gptq
