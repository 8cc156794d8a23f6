#include "pipeline/block_quantizer.h"

#include <cmath>

#include "base/error.h"

namespace gptq {

BlockQuantizer::BlockQuantizer(const ModelWeights& model, const Recipe& recipe, StageSolver& solver,
                               Kernels& kernels, PhaseClock& phases, OnLayers on_layers,
                               OnSafePoint on_safe_point)
    : model_(model),
      recipe_(recipe),
      solver_(solver),
      kernels_(kernels),
      phases_(phases),
      on_layers_(std::move(on_layers)),
      on_safe_point_(std::move(on_safe_point)) {}

std::vector<LayerToQuantize> BlockQuantizer::chosen_layers(std::int64_t group,
                                                           const BlockWeights& weights) const {
  std::vector<LayerToQuantize> chosen;
  const std::string prefix = block_prefix(model_.architecture(), weights.block);
  for (const LinearShape& layer : model_.groups()[static_cast<std::size_t>(group)].layers) {
    const std::string module = prefix + layer.name;
    if (recipe_.selects(module)) chosen.push_back({module, layer.name, &weights.at(layer.name + ".weight")});
  }
  return chosen;
}

void BlockQuantizer::track(const Activations& activations, std::size_t chunk, std::int64_t width,
                           std::int64_t block_index, const std::string& where, std::vector<float>& maximum) {
  const Matrix x = activations.x(chunk, width);
  kernels_.column_max(x, maximum);
  for (float value : maximum) {
    if (std::isfinite(value)) continue;
    const Batch& batch = activations.batch(chunk);
    for (std::int64_t s = 0; s < batch.samples(); ++s) {
      const std::int64_t first = batch.offsets[static_cast<std::size_t>(s)];
      const std::int64_t rows = batch.offsets[static_cast<std::size_t>(s) + 1] - first;
      if (kernels_.all_finite(x.rows_from(first, rows))) continue;
      throw NumericalError(
          "NaN or infinity in the activations: block {}, input of stage group {}, calibration sample {}. "
          "Look at that "
          "sample's text and at the weights of the blocks before; with compute.dtype bf16, try fp32.",
          block_index, where, activations.chunk(chunk).first_sample + s);
    }
    contract_violation("a non-finite column maximum comes from one of the chunk's samples", __FILE__,
                       __LINE__);
  }
}

std::vector<float> BlockQuantizer::enter(DecoderBlock& block, Activations& activations,
                                         std::int64_t block_index) {
  const auto scope = phases_.in("forward");
  std::vector<float> maximum(static_cast<std::size_t>(block.group_width(0)), 0.0f);
  for (std::size_t i = 0; i < activations.chunks(); ++i) {
    block.enter(activations.batch(i), activations.hidden(i), activations.x(i, block.group_width(0)));
    track(activations, i, block.group_width(0), block_index, model_.groups()[0].name, maximum);
  }
  return maximum;
}

std::vector<float> BlockQuantizer::advance(std::int64_t group, DecoderBlock& block, Activations& activations,
                                           std::int64_t block_index) {
  const auto scope = phases_.in("forward");
  const bool last = group + 1 == block.groups();
  const std::int64_t width = block.group_width(group);
  const std::int64_t next_width = last ? 0 : block.group_width(group + 1);
  std::vector<float> maximum(static_cast<std::size_t>(next_width), 0.0f);
  for (std::size_t i = 0; i < activations.chunks(); ++i) {
    const Matrix next = last ? Matrix{} : activations.x(i, next_width);
    block.advance(group, activations.batch(i), activations.hidden(i), activations.x(i, width), next);
    if (!last) {
      const std::string& name = model_.groups()[static_cast<std::size_t>(group) + 1].name;
      track(activations, i, next_width, block_index, name, maximum);
    }
  }
  return maximum;
}

std::vector<float> BlockQuantizer::column_maximum(std::int64_t group, const DecoderBlock& block,
                                                  const Activations& activations, std::int64_t block_index) {
  const auto scope = phases_.in("forward");
  const std::int64_t width = block.group_width(group);
  const std::string& name = model_.groups()[static_cast<std::size_t>(group)].name;
  std::vector<float> maximum(static_cast<std::size_t>(width), 0.0f);
  for (std::size_t i = 0; i < activations.chunks(); ++i)
    track(activations, i, width, block_index, name, maximum);
  return maximum;
}

void BlockQuantizer::quantize_group(const SafePoint& here, const BlockWeights& weights,
                                    std::vector<float> maximum, PartialSum before, QuantizedBlock& result) {
  const std::vector<LayerToQuantize> layers = chosen_layers(here.group, weights);
  if (layers.empty()) return;
  const std::int64_t width = model_.groups()[static_cast<std::size_t>(here.group)].in_features;
  const auto on_round = [&](std::span<const std::int64_t> panels, const std::vector<std::int64_t>& chunks) {
    SafePoint point = here;
    point.panels = panels;
    point.chunks = chunks;
    on_safe_point_(point);
  };
  const StageFactor factor = solver_.factor(
      solver_.accumulate(*here.activations, width, std::move(maximum), std::move(before), on_round));
  SolvedStage solved = solver_.solve(factor, layers, weights.block);
  on_layers_(solved.statistics);
  std::move(solved.layers.begin(), solved.layers.end(), std::back_inserter(result.layers));
  std::move(solved.statistics.begin(), solved.statistics.end(), std::back_inserter(result.statistics));
}

void BlockQuantizer::use_quantized(std::size_t first_layer, const QuantizedBlock& quantized,
                                   std::int64_t block_index, DecoderBlock& block) {
  const auto scope = phases_.in("forward");
  const std::string prefix = block_prefix(model_.architecture(), block_index);
  for (std::size_t i = first_layer; i < quantized.layers.size(); ++i) {
    const QuantizedLayer& layer = quantized.layers[i];
    block.set_linear(layer.module.substr(prefix.size()), dequantize(layer).matrix());
  }
}

QuantizedBlock BlockQuantizer::run(const BlockWeights& weights, DecoderBlock& block, Activations& activations,
                                   BlockStart start) {
  QuantizedBlock result = std::move(start.finished);
  const bool sequential = recipe_.section().true_sequential;
  HostBuffer before;
  if (!sequential) before = start.group == 0 ? activations.copy_hidden() : std::move(start.hidden_before);

  std::vector<float> maximum = start.group == 0
                                   ? enter(block, activations, weights.block)
                                   : column_maximum(start.group, block, activations, weights.block);
  for (std::int64_t group = start.group; group < block.groups(); ++group) {
    SafePoint here{weights.block, group, &activations, 0, nullptr, {}, {}, &result};
    if (group > 0) {
      here.x_width = block.group_width(group);
      here.hidden_before = sequential ? nullptr : &before;
    }
    if (group > start.group) on_safe_point_(here);
    const std::size_t first_layer = result.layers.size();
    PartialSum sum = group == start.group ? std::move(start.sum) : PartialSum();
    quantize_group(here, weights, std::move(maximum), std::move(sum), result);
    if (sequential) use_quantized(first_layer, result, weights.block, block);
    maximum = advance(group, block, activations, weights.block);
  }
  if (!sequential) {
    // The Hessians came from the original weights; the next block must see what the quantized ones give.
    activations.restore_hidden(before);
    use_quantized(0, result, weights.block, block);
    enter(block, activations, weights.block);
    for (std::int64_t group = 0; group < block.groups(); ++group)
      advance(group, block, activations, weights.block);
  }
  return result;
}

QuantizedBlock BlockQuantizer::round_to_nearest(const BlockWeights& weights) {
  QuantizedBlock result;
  for (std::size_t group = 0; group < model_.groups().size(); ++group) {
    const std::vector<LayerToQuantize> layers = chosen_layers(static_cast<std::int64_t>(group), weights);
    if (layers.empty()) continue;
    SolvedStage solved =
        solver_.solve(solver_.no_factor(model_.groups()[group].in_features), layers, weights.block);
    on_layers_(solved.statistics);
    std::move(solved.layers.begin(), solved.layers.end(), std::back_inserter(result.layers));
    std::move(solved.statistics.begin(), solved.statistics.end(), std::back_inserter(result.statistics));
  }
  return result;
}

}  // namespace gptq
