#include "pipeline/block_quantizer.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "base/error.h"

namespace gptq {
namespace {

std::vector<float> floats_of(const HostTensor& tensor) {
  const HostTensor converted = convert(tensor, DType::f32);
  const auto* const values = reinterpret_cast<const float*>(converted.storage.data());
  return {values, values + converted.elements()};
}

}  // namespace

std::int64_t reference_group(const Recipe& recipe, const std::vector<StageGroup>& groups,
                             std::int64_t group) {
  const bool behind = recipe.section().correction_target == "residual" &&
                      groups[static_cast<std::size_t>(group)].adds_to_residual;
  return behind ? group + 1 : group;
}

std::int64_t reference_width(const Recipe& recipe, const std::vector<StageGroup>& groups,
                             std::int64_t group) {
  const auto at = static_cast<std::size_t>(reference_group(recipe, groups, group));
  return at < groups.size() ? groups[at].in_features : 0;
}

/// The streams on their way through the block.
struct BlockQuantizer::Passage {
  BlockStream quantized;
  std::unique_ptr<DecoderBlock> original;  ///< of the reference
  std::optional<BlockStream> reference;
  std::vector<float> maximum, reference_maximum;  ///< of the present group's inputs

  Passage(const Tools& tools, std::int64_t index, DecoderBlock& block, const Streams& streams)
      : quantized(tools.model, tools.backend, tools.phases, "forward", index, block, streams.quantized) {
    if (streams.reference == nullptr) return;
    original = block.copy();
    reference.emplace(tools.model, tools.backend, tools.phases, "reference", index, *original,
                      *streams.reference);
  }

  Activations* reference_activations() const { return reference ? &reference->activations() : nullptr; }
  /// The streams come to these groups; behind the last one, the reference has passed the block.
  void begin(std::int64_t group, std::int64_t of_reference) {
    maximum = group == 0 ? quantized.enter() : quantized.column_maximum(group);
    if (!reference || of_reference == quantized.block().groups()) return;
    reference_maximum = of_reference == 0 ? reference->enter() : reference->column_maximum(of_reference);
  }
  void advance_reference(std::int64_t group) {
    if (reference) reference_maximum = reference->advance(group);
  }
  void advance_quantized(std::int64_t group) { maximum = quantized.advance(group); }
};

std::vector<LayerToQuantize> BlockQuantizer::chosen_layers(std::int64_t group,
                                                           const DecoderBlock* block) const {
  std::vector<LayerToQuantize> chosen;
  const std::string prefix = block_prefix(tools_.model.architecture(), weights_.block);
  for (const LinearShape& layer : tools_.model.groups()[static_cast<std::size_t>(group)].layers) {
    const std::string module = prefix + layer.name;
    if (!tools_.recipe.selects(module)) continue;
    LayerToQuantize next{module, layer.name, &weights_.at(layer.name + ".weight"), nullptr, {}};
    if (block != nullptr) next.prepared = &block->linear(layer.name);
    if (layer.bias) next.bias = floats_of(weights_.at(layer.name + ".bias"));
    chosen.push_back(std::move(next));
  }
  return chosen;
}

bool BlockQuantizer::reference_is_ahead(std::int64_t group) const {
  return reference_group(tools_.recipe, tools_.model.groups(), group) > group;
}

void BlockQuantizer::append(SolvedStage solved, QuantizedBlock& result) {
  std::move(solved.layers.begin(), solved.layers.end(), std::back_inserter(result.layers));
  std::move(solved.statistics.begin(), solved.statistics.end(), std::back_inserter(result.statistics));
}

void BlockQuantizer::quantize_group(Passage& passage, const SafePoint& here, PartialSum before,
                                    QuantizedBlock& result) {
  DecoderBlock& block = passage.quantized.block();
  const std::vector<LayerToQuantize> layers = chosen_layers(here.group, &block);
  if (layers.empty()) return;
  const auto is_corrected = [&](const LayerToQuantize& layer) {
    return tools_.recipe.corrects(layer.module);
  };
  StageInput input(passage.quantized.activations(), passage.reference_activations(),
                   block.group_width(here.group));
  const bool aims_at_residual = reference_is_ahead(here.group);
  input.corrected = passage.reference && std::any_of(layers.begin(), layers.end(), is_corrected) &&
                    (aims_at_residual || tools_.recipe.section().correction_target == "output");
  input.maximum = std::move(passage.maximum);
  if (aims_at_residual) {
    GPTQ_EXPECT(layers.size() == 1);
    input.target = CorrectionTarget::residual;
    input.bias = layers[0].bias;
  } else {
    input.reference_maximum = std::move(passage.reference_maximum);
  }
  input.weighted = tools_.recipe.section().token_weight == "residual" && block.uses_hidden(here.group);
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

void BlockQuantizer::use_quantized(std::size_t first_layer, const QuantizedBlock& quantized,
                                   DecoderBlock& block) {
  const auto scope = tools_.phases.in("forward");
  const std::string prefix = block_prefix(tools_.model.architecture(), weights_.block);
  for (std::size_t i = first_layer; i < quantized.layers.size(); ++i) {
    const QuantizedLayer& layer = quantized.layers[i];
    block.set_linear(layer.module.substr(prefix.size()), weights_of(layer));
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

QuantizedBlock BlockQuantizer::run(DecoderBlock& block, Streams streams, BlockStart start) {
  QuantizedBlock result = std::move(start.finished);
  const bool sequential = tools_.recipe.section().true_sequential;
  Passage passage(tools_, weights_.block, block, streams);
  RowStore before;
  if (!sequential)
    before = start.group == 0 ? streams.quantized.copy_hidden() : std::move(start.hidden_before);

  passage.begin(start.group, reference_group(tools_.recipe, tools_.model.groups(), start.group));
  for (std::int64_t group = start.group; group < block.groups(); ++group) {
    SafePoint here;
    here.block = weights_.block;
    here.group = group;
    here.activations = &streams.quantized;
    here.reference = streams.reference;
    here.held_out = streams.held_out;
    here.finished = &result;
    if (group > 0) {
      here.x_width = block.group_width(group);
      here.reference_x_width = reference_width(tools_.recipe, tools_.model.groups(), group);
      here.hidden_before = sequential ? nullptr : &before;
    }
    const bool reference_first = reference_is_ahead(group);
    if (group > start.group) {
      if (reference_first) passage.advance_reference(group);
      tools_.on_safe_point(here);
    }
    const std::size_t first_layer = result.layers.size();
    quantize_group(passage, here, group == start.group ? std::move(start.sum) : PartialSum(), result);
    // Behind the first group's safe points and before any weight changes: where the stream is follows from
    // the position.
    if (group == 0 && streams.held_out != nullptr) pass_held_out(block, *streams.held_out);
    if (sequential) use_quantized(first_layer, result, block);
    passage.advance_quantized(group);
    if (!reference_first) passage.advance_reference(group);
  }
  if (!sequential) {
    // The Hessians came from the original weights; the next block must see what the quantized ones give.
    streams.quantized.restore_hidden(before);
    use_quantized(0, result, block);
    passage.quantized.enter();
    passage.quantized.run_from(0);
  }
  return result;
}

QuantizedBlock BlockQuantizer::round_to_nearest() {
  QuantizedBlock result;
  for (std::size_t group = 0; group < tools_.model.groups().size(); ++group) {
    const std::vector<LayerToQuantize> layers = chosen_layers(static_cast<std::int64_t>(group), nullptr);
    if (layers.empty()) continue;
    SolvedStage solved = tools_.solver.round_to_nearest(layers, weights_.block);
    tools_.on_layers(solved.statistics);
    append(std::move(solved), result);
  }
  return result;
}

}  // namespace gptq
