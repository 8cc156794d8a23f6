#include "pipeline/block_quantizer.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "base/error.h"
#include "pipeline/chosen_layers.h"

namespace gptq {
std::optional<CorrectionTarget> correction_target_of(const Recipe& recipe, const BlockStep& step) {
  if (recipe.section().correction_target == "output") return CorrectionTarget::output;
  if (!step.writes_residual) return std::nullopt;
  return step.groups.front().adds_to_residual ? CorrectionTarget::residual : CorrectionTarget::output;
}

std::int64_t reference_step(const Recipe& recipe, const BlockLayout& layout, std::int64_t step) {
  const BlockStep& own = layout.steps.at(static_cast<std::size_t>(step));
  return correction_target_of(recipe, own) == CorrectionTarget::residual ? step + 1 : step;
}

std::int64_t reference_width(const Recipe& recipe, const BlockLayout& layout, std::int64_t step) {
  const auto at = static_cast<std::size_t>(reference_step(recipe, layout, step));
  return at < layout.steps.size() ? layout.steps[at].width : 0;
}

/// The streams on their way through the block.
struct BlockQuantizer::Passage {
  BlockStream quantized;
  std::unique_ptr<DecoderBlock> original;  ///< of the reference
  std::optional<BlockStream> reference;
  std::vector<float> maximum, reference_maximum;  ///< of the present step's inputs

  Passage(const Tools& tools, std::int64_t index, DecoderBlock& block, const Streams& streams)
      : quantized(tools.backend, tools.phases, "forward", index, block, streams.quantized) {
    if (streams.reference == nullptr) return;
    original = block.copy();
    reference.emplace(tools.backend, tools.phases, "reference", index, *original, *streams.reference);
  }

  Activations* reference_activations() const { return reference ? &reference->activations() : nullptr; }
  /// The streams come to these steps; behind the last one, the reference has passed the block. enters: the
  /// first step's input is not there yet.
  void begin(std::int64_t step, std::int64_t of_reference, bool enters) {
    maximum = enters ? quantized.enter() : quantized.column_maximum(step);
    if (!reference || of_reference == quantized.block().steps()) return;
    reference_maximum =
        enters && of_reference == 0 ? reference->enter() : reference->column_maximum(of_reference);
  }
};

bool BlockQuantizer::reference_is_ahead(std::int64_t step) const {
  return reference_step(tools_.recipe, layout(), step) > step;
}

void BlockQuantizer::append(SolvedStage solved, QuantizedBlock& result) {
  std::move(solved.layers.begin(), solved.layers.end(), std::back_inserter(result.layers));
  std::move(solved.statistics.begin(), solved.statistics.end(), std::back_inserter(result.statistics));
}

/// What is summed for these layers of the group.
StageInput BlockQuantizer::stage_input(Passage& passage, std::int64_t group,
                                       const std::vector<LayerToQuantize>& layers) {
  const std::int64_t at = layout().step_of(group);
  const BlockStep& step = layout().steps[static_cast<std::size_t>(at)];
  const StageGroup& own = layout().group(group);
  const auto columns = [&](const std::vector<float>& maximum) {
    const auto first = maximum.begin() + own.first_column;
    return std::vector<float>(first, first + own.in_features);
  };
  StageInput input(passage.quantized.activations(), passage.reference_activations(), step.width,
                   own.first_column, own.in_features);
  const std::optional<CorrectionTarget> target = correction_target_of(tools_.recipe, step);
  input.corrected = passage.reference && target &&
                    std::any_of(layers.begin(), layers.end(), [&](const LayerToQuantize& layer) {
                      return tools_.recipe.corrects(layer.module);
                    });
  input.maximum = columns(passage.maximum);
  if (target == CorrectionTarget::residual) {
    GPTQ_EXPECT(layers.size() == 1);
    input.target = CorrectionTarget::residual;
    input.bias = layers[0].bias;
  } else if (passage.reference) {
    input.reference_maximum = columns(passage.reference_maximum);
  }
  input.weighted = tools_.recipe.section().token_weight == "residual" && step.writes_residual;
  return input;
}

void BlockQuantizer::quantize_group(Passage& passage, const SafePoint& here, PartialSum before,
                                    QuantizedBlock& result) {
  const std::vector<LayerToQuantize> layers = chosen_layers(
      tools_.model, tools_.recipe, layout().group(here.group), weights_, &passage.quantized.block());
  if (layers.empty()) return;
  const StageInput input = stage_input(passage, here.group, layers);
  const StageSums sums = tools_.summer.accumulate(
      input, std::move(before), [&](const StageSums& partial, const std::vector<std::int64_t>& chunks) {
        SafePoint point = here;
        point.sums = &partial;
        point.chunks = chunks;
        tools_.on_safe_point(point);
      });
  std::optional<HeldOutJudge> judge;
  if (tools_.holds_out)
    judge.emplace(tools_.backend, tools_.comm, input, input.activations.compute(), tools_.phases);
  SolvedStage solved = tools_.solver.solve(sums, layers, weights_.block, judge ? &*judge : nullptr);
  tools_.on_layers(solved.statistics);
  append(std::move(solved), result);
}

void BlockQuantizer::use_quantized(const BlockStep* step, const QuantizedBlock& quantized,
                                   DecoderBlock& block) {
  const auto scope = tools_.phases.in("forward");
  const std::string prefix = block_prefix(tools_.model.architecture(), weights_.block);
  const auto is_in_step = [&](const std::string& name) {
    return std::any_of(step->groups.begin(), step->groups.end(), [&](const StageGroup& group) {
      return std::any_of(group.layers.begin(), group.layers.end(),
                         [&](const LinearShape& layer) { return layer.name == name; });
    });
  };
  for (const QuantizedLayer& layer : quantized.layers) {
    const std::string name = layer.module.substr(prefix.size());
    if (step == nullptr || is_in_step(name)) block.set_linear(name, weights_of(layer));
  }
}

/// The whole block at once: nothing is summed of this stream.
void BlockQuantizer::pass_held_out(DecoderBlock& block, Activations& stream) {
  const auto scope = tools_.phases.in("held out");
  Activations::Use use;
  use.hidden = Activations::Use::updated;
  stream.visit(use, [&](std::size_t i, const Matrix& hidden, const Matrix&, const Matrix&) {
    block.forward(stream.batch(i), hidden);
  });
}

SafePoint BlockQuantizer::safe_point(const Streams& streams, std::int64_t group, const RowStore* before,
                                     const QuantizedBlock& finished) const {
  SafePoint here;
  here.block = weights_.block;
  here.group = group;
  here.activations = &streams.quantized;
  here.reference = streams.reference;
  here.held_out = streams.held_out;
  here.finished = &finished;
  if (group == 0) return here;
  const std::int64_t step = layout().step_of(group);
  here.x_width = layout().steps[static_cast<std::size_t>(step)].width;
  here.reference_x_width = reference_width(tools_.recipe, layout(), step);
  here.hidden_before = before;
  return here;
}

void BlockQuantizer::advance(BlockStream& stream, std::int64_t step, bool leaves,
                             std::vector<float>& maximum) {
  const auto pass = [&] { maximum = stream.advance(step); };
  if (leaves) return tools_.let_go(stream.activations(), pass);
  pass();
}

/// The Hessians came from the original weights; the next block must see what the quantized ones give.
void BlockQuantizer::pass_again(Passage& passage, const RowStore& before, const QuantizedBlock& quantized) {
  passage.quantized.activations().restore_hidden(before);
  use_quantized(nullptr, quantized, passage.quantized.block());
  passage.quantized.enter();
  const std::int64_t steps = passage.quantized.block().steps();
  for (std::int64_t step = 0; step < steps; ++step)
    advance(passage.quantized, step, step + 1 == steps, passage.maximum);
}

QuantizedBlock BlockQuantizer::run(DecoderBlock& block, Streams streams, BlockStart start) {
  QuantizedBlock result = std::move(start.finished);
  const bool sequential = tools_.recipe.section().true_sequential;
  Passage passage(tools_, weights_.block, block, streams);
  RowStore before;
  const std::int64_t first_step = layout().step_of(start.group);
  const std::int64_t of_reference = reference_step(tools_.recipe, layout(), first_step);
  passage.begin(first_step, of_reference, start.group == 0);
  if (!sequential)
    before = start.group == 0 ? streams.quantized.copy_hidden() : std::move(start.hidden_before);
  if (start.group == 0) tools_.on_entered();
  bool reference_left = false;
  for (std::int64_t at = first_step; at < block.steps(); ++at) {
    const BlockStep& step = layout().steps[static_cast<std::size_t>(at)];
    const bool reference_first = reference_is_ahead(at), last = at + 1 == block.steps();
    const auto advance_reference = [&](bool leaves) {
      if (passage.reference) advance(*passage.reference, at, leaves, passage.reference_maximum);
    };
    const std::int64_t end = layout().first_group(at + 1);
    for (std::int64_t group = std::max(start.group, layout().first_group(at)); group < end; ++group) {
      const SafePoint here = safe_point(streams, group, sequential ? nullptr : &before, result);
      if (group > start.group) {
        if (reference_first) advance_reference(false);  // it is still looked at
        tools_.on_safe_point(here);
      }
      quantize_group(passage, here, group == start.group ? std::move(start.sum) : PartialSum(), result);
      // Behind the first group's safe points and before any weight changes: where the stream is follows from
      // the position.
      if (group == 0 && streams.held_out != nullptr) pass_held_out(block, *streams.held_out);
    }
    // All groups of the step, also those that an earlier attempt has quantized: they act from here on.
    if (sequential) use_quantized(&step, result, block);
    advance(passage.quantized, at, last && sequential, passage.maximum);
    if (!reference_first) advance_reference(last);
    reference_left = last && !reference_first;
  }
  if (!sequential) pass_again(passage, before, result);
  if (streams.reference != nullptr && !reference_left) tools_.let_go(*streams.reference, {});
  if (streams.held_out != nullptr) tools_.let_go(*streams.held_out, {});
  return result;
}

QuantizedBlock BlockQuantizer::round_to_nearest() {
  QuantizedBlock result;
  for (std::int64_t group = 0; group < layout().groups(); ++group) {
    const std::vector<LayerToQuantize> layers =
        chosen_layers(tools_.model, tools_.recipe, layout().group(group), weights_, nullptr);
    if (layers.empty()) continue;
    SolvedStage solved = tools_.solver.round_to_nearest(layers, weights_.block);
    tools_.on_layers(solved.statistics);
    append(std::move(solved), result);
  }
  return result;
}

}  // namespace gptq
