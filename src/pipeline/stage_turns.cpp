#include "pipeline/stage_turns.h"

#include <utility>

#include "pipeline/block_helper.h"

namespace gptq {

StageTurns::StageTurns(const GridParts& parts, BlockStart start, bool helpers)
    : parts_(parts),
      start_(std::move(start)),
      helpers_(helpers),
      chunks_(chunks_of(parts.inputs, parts.plan)) {}

Team StageTurns::solvers_of(std::int64_t block) const {
  if (!helpers_) return parts_.holders();
  return {parts_.grid.world(), *parts_.compute.collectives, parts_.grid.root_of(block),
          parts_.grid.shape().replicas};
}

void StageTurns::pass_safe_point(SafePoint point) {
  point.keeps_finished = point.activations != nullptr && parts_.grid.is_root_of(point.block);
  parts_.run.at_safe_point(point);
}

/// Where every rank comes to the block. Those that hold it have all of its input now.
void StageTurns::begin_block(std::int64_t block) {
  if (block == parts_.grid.first_block()) return;
  if (parts_.grid.holds(block)) parts_.routes->wait_here();
  pass_safe_point(parts_.between_blocks(block));
}

void StageTurns::quantize(std::int64_t block, BlockPrefetcher& prefetcher) {
  parts_.phases.set_block(block);
  const Team team = solvers_of(block);
  StageSummer summer = parts_.summer();
  StageSolver solver = parts_.solver(team);
  const BlockQuantizer::Tools tools{
      *parts_.inputs.model,
      parts_.run.recipe(),
      summer,
      solver,
      *parts_.compute.backend,
      parts_.grid.replicas(),
      parts_.phases,
      parts_.inputs.held_out() > 0,
      [&](const std::vector<LayerStatistics>& rows) { parts_.progress.layers_done(block, rows); },
      [&](const SafePoint& point) { pass_safe_point(point); },
      [&] { begin_block(block); },
      [&](Activations& stream, const std::function<void()>& pass) {
        parts_.routes->let_go(block, stream, pass);
      }};
  parts_.routes->expect(block);
  PreparedBlock present = parts_.next_block(prefetcher);
  BlockQuantizer quantizer(tools, present.weights);
  QuantizedBlock quantized =
      quantizer.run(*present.block, parts_.streams->in_block(), std::exchange(start_, BlockStart()));
  parts_.finish_block(block, present, std::move(quantized), team.comm);
}

void StageTurns::help(std::int64_t block) {
  parts_.phases.set_block(block);
  const Team team = solvers_of(block);
  StageSolver solver = parts_.solver(team);
  const BlockHelper::Tools tools{
      *parts_.inputs.model,
      parts_.run.recipe(),
      helpers_ ? &solver : nullptr,
      chunks_,
      parts_.grid.shape().replicas,
      [&](const std::vector<LayerStatistics>& rows) { parts_.progress.layers_done(block, rows); },
      [&](const SafePoint& point) { pass_safe_point(point); }};
  begin_block(block);
  std::vector<LayerStatistics> rows = BlockHelper(tools).run(block, std::exchange(start_, BlockStart()));
  if (helpers_) parts_.run.record(rows, team.comm);
  parts_.progress.block_done(block);
}

/// Behind the last block. Without a head to quantize, this is where a job can still be stopped.
std::optional<QuantizedLayer> StageTurns::head() {
  const std::int64_t behind = parts_.blocks();
  parts_.phases.set_block(-1);
  const bool holds = parts_.grid.holds(behind);
  if (holds) parts_.routes->expect(behind);
  begin_block(behind);
  if (!parts_.quantizes_head()) return std::nullopt;
  const Team team = solvers_of(behind);
  if (holds) return parts_.quantize_head(team);
  if (!helpers_) return std::nullopt;
  const LinearShape shape = head_shape(parts_.inputs.model->architecture(), parts_.inputs.model->config());
  const SolvedStage solved = parts_.solver(team).help(
      {{shape.name, shape.name, nullptr, nullptr, {}, shape.out_features, shape.in_features}}, behind);
  parts_.run.record(solved.statistics, team.comm);
  return std::nullopt;
}

std::optional<QuantizedLayer> StageTurns::run() {
  BlockPrefetcher prefetcher = parts_.prefetcher();
  for (const Visit& visit : visits_of_stage(parts_.schedule(), parts_.grid.place().stage)) {
    if (visit.kind == Visit::Kind::help) {
      help(visit.block);
    } else {
      quantize(visit.block, prefetcher);
    }
  }
  return head();
}

}  // namespace gptq
