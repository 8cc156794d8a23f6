#include "pipeline/stage_rounds.h"

#include <algorithm>
#include <utility>

namespace gptq {

void StageRounds::round_to_nearest(std::int64_t block, BlockPrefetcher& prefetcher) {
  StageSummer summer = parts_.summer();
  StageSolver solver = parts_.solver(parts_.holders());
  const BlockQuantizer::Tools tools{
      *parts_.inputs.model,
      parts_.run.recipe(),
      summer,
      solver,
      *parts_.compute.backend,
      parts_.grid.replicas(),
      parts_.phases,
      false,
      [&](const std::vector<LayerStatistics>& rows) { parts_.progress.layers_done(block, rows); },
      {},
      {},
      {}};
  PreparedBlock present = parts_.next_block(prefetcher);
  QuantizedBlock quantized = BlockQuantizer(tools, present.weights).round_to_nearest();
  parts_.finish_block(block, present, std::move(quantized), parts_.grid.replicas());
}

void StageRounds::work(const Visit& visit, BlockPrefetcher& prefetcher) {
  if (visit.kind == Visit::Kind::quantize) round_to_nearest(visit.block, prefetcher);
}

void StageRounds::pass_safe_point(std::int64_t block) {
  parts_.run.at_safe_point(parts_.between_blocks(block));
}

/// next: the first block of the round to come. Several stages ask each other about a cut one round ahead, so
/// that none waits for the others unless there is one.
void StageRounds::end_round(std::int64_t next) {
  if (parts_.grid.shape().stages == 1) return pass_safe_point(next);
  Checkpointer& checkpointer = parts_.run.checkpointer();
  if (checkpointer.is_wanted()) pass_safe_point(next);
  checkpointer.ask();
}

std::optional<QuantizedLayer> StageRounds::run() {
  const ScheduleShape schedule = parts_.schedule();
  const std::vector<Visit> visits = visits_of_stage(schedule, parts_.grid.place().stage);
  BlockPrefetcher prefetcher = parts_.prefetcher();
  std::size_t done = 0;
  std::int64_t next = schedule.first_block;
  for (const std::size_t end : cuts(schedule, visits)) {
    for (; done < end; ++done) work(visits[done], prefetcher);
    next = std::min(next + schedule.grid.stages, schedule.blocks);
    end_round(next);
  }
  if (!parts_.quantizes_head() || !parts_.grid.holds(parts_.blocks())) return std::nullopt;
  return parts_.quantize_head(parts_.holders());
}

}  // namespace gptq
