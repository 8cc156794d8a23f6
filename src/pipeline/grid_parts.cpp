#include "pipeline/grid_parts.h"

#include <utility>

#include "pipeline/grid_choice.h"
#include "pipeline/head_quantizer.h"

namespace gptq {

StageSolver GridParts::solver(const Team& team) const {
  return {*compute.backend,        team,  run.recipe(), inputs.summed_tokens(), inputs.summed_samples(),
          job.fallback.min_tokens, phases};
}

StageSummer GridParts::summer() const {
  return {*compute.backend,
          grid.replicas(),
          replica_device,
          inputs.summed_tokens(),
          inputs.model->config().norm_eps,
          phases};
}

KeptInputs GridParts::keep_inputs() const {
  std::vector<Chunk> chunks;
  for (std::size_t i = 0; i < streams->quantized().chunks(); ++i)
    chunks.push_back(streams->quantized().chunk(i));
  std::vector<const BlockLayout*> layouts;
  for (std::int64_t block = 0; block < blocks(); ++block) layouts.push_back(&inputs.model->layout(block));
  return {*compute.backend, inputs.calibration,
          chunks,           compute.dtype,
          layouts,          {plan.activation_place, spill_path(job)}};
}

BlockPrefetcher GridParts::prefetcher() const {
  std::vector<std::int64_t> own;
  for (std::int64_t block = grid.next_own_block(grid.first_block() - 1); block < blocks();
       block = grid.next_own_block(block))
    own.push_back(block);
  BlockPrefetcher::Prepare prepare;
  if (streams != nullptr) {
    prepare = [this](const BlockWeights& weights) {
      return std::make_unique<DecoderBlock>(*compute.backend, *inputs.model, weights, positions,
                                            compute.dtype);
    };
  }
  return {*compute.backend, *inputs.model, std::move(own), std::move(prepare), phases.trace()};
}

PreparedBlock GridParts::next_block(BlockPrefetcher& prefetcher) const {
  const auto scope = phases.in("load");
  return prefetcher.take();
}

void GridParts::finish_block(std::int64_t block, PreparedBlock& present, QuantizedBlock quantized,
                             Communicator& team) const {
  run.record(quantized.statistics, team);
  if (grid.is_root_of(block)) {
    const auto scope = phases.in("export");
    run.write_block(block, std::move(present.weights), std::move(quantized));
  }
  progress.block_done(block);
}

QuantizedLayer GridParts::quantize_head(const Team& team) const {
  StageSummer summing = summer();
  StageSolver solving = solver(team);
  const BlockQuantizer::Tools tools{*inputs.model,
                                    run.recipe(),
                                    summing,
                                    solving,
                                    *compute.backend,
                                    grid.replicas(),
                                    phases,
                                    inputs.held_out() > 0,
                                    {},
                                    {},
                                    {},
                                    {}};
  SolvedStage solved = HeadQuantizer(tools, compute.dtype)
                           .run(streams != nullptr ? &streams->quantized() : nullptr,
                                streams != nullptr ? streams->reference() : nullptr);
  run.record(solved.statistics, team.comm);
  if (grid.is_root_of(blocks())) run.write_head(solved.layers.front(), solved.statistics);
  return std::move(solved.layers.front());
}

SafePoint GridParts::between_blocks(std::int64_t block) const {
  SafePoint here;
  here.block = block;
  if (streams == nullptr || !grid.holds(block)) return here;
  streams->add_to(here);
  here.keeps_finished = grid.is_root_of(block);
  return here;
}

ScheduleShape GridParts::schedule() const {
  ScheduleShape shape;
  shape.grid = grid.shape();
  shape.first_block = grid.first_block();
  shape.blocks = blocks();
  shape.starts = {grid.first_block()};
  shape.full_precision = job.quantization.propagation == "full_precision";
  shape.helpers = grid.shape().stages > 1 && takes_turns(job);
  return shape;
}

}  // namespace gptq
