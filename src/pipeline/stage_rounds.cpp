#include "pipeline/stage_rounds.h"

#include <algorithm>
#include <utility>

namespace gptq {

StageRounds::StageRounds(const GridParts& parts)
    : parts_(parts),
      summer_(parts.summer()),
      solver_(parts.solver(parts.holders())),
      tools_{
          *parts.inputs.model,
          parts.run.recipe(),
          summer_,
          solver_,
          *parts.compute.backend,
          parts.grid.replicas(),
          parts.phases,
          parts.inputs.held_out() > 0,
          [this](const std::vector<LayerStatistics>& rows) { parts_.progress.layers_done(block_, rows); },
          {},
          {},
          [this](Activations& stream, const std::function<void()>& pass) { let_go(block_, stream, pass); }},
      prefetcher_(parts.prefetcher()) {
  if (parts.streams == nullptr) return;
  kept_.emplace(parts.keep_inputs());
  kept_->on_chunk({}, [this](std::size_t) { parts_.routes->progress(); });
}

/// At once afterwards, chunks of the next block may come into their place.
void StageRounds::let_go(std::int64_t block, Activations& stream, const std::function<void()>& pass) {
  parts_.routes->let_go(block, stream, pass);
  parts_.routes->expect(parts_.grid.next_own_block(block), stream);
}

/// All chunks through the block's original weights; its layers' inputs are kept.
void StageRounds::take_through(std::int64_t block) {
  block_ = block;
  present_ = parts_.next_block(prefetcher_);
  quantizer_.emplace(tools_, present_.weights, *present_.block, *kept_);
  quantizer_->pass(parts_.streams->quantized());
}

void StageRounds::quantize(std::int64_t block) {
  block_ = block;
  QuantizedBlock quantized;
  if (quantizer_) {
    quantized = quantizer_->solve();
    Activations* const held_out = parts_.streams->held_out();
    if (held_out != nullptr) quantizer_->pass_quantized(*held_out, quantized);
    quantizer_.reset();
  } else {
    present_ = parts_.next_block(prefetcher_);
    quantized = BlockQuantizer(tools_, present_.weights).round_to_nearest();
  }
  parts_.finish_block(block, present_, std::move(quantized), parts_.grid.replicas());
  present_ = {};
}

void StageRounds::work(const Visit& visit) {
  parts_.phases.set_block(visit.block);
  visit.kind == Visit::Kind::reference ? take_through(visit.block) : quantize(visit.block);
}

void StageRounds::pass_safe_point(std::int64_t block) {
  if (parts_.streams != nullptr && parts_.grid.holds(block)) parts_.routes->wait_here();
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
  if (parts_.streams != nullptr) parts_.routes->expect(parts_.grid.next_own_block(schedule.first_block - 1));
  std::size_t done = 0;
  std::int64_t next = schedule.first_block;
  for (const std::size_t end : cuts(schedule, visits)) {
    for (; done < end; ++done) work(visits[done]);
    next = std::min(next + schedule.grid.stages, schedule.blocks);
    end_round(next);
  }
  parts_.phases.set_block(-1);
  if (!parts_.grid.holds(schedule.blocks)) return std::nullopt;
  if (parts_.streams != nullptr) parts_.routes->wait_here();
  if (!parts_.quantizes_head()) return std::nullopt;
  return parts_.quantize_head(parts_.holders());
}

}  // namespace gptq
