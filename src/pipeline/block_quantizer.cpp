#include "pipeline/block_quantizer.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace gptq {

BlockQuantizer::BlockQuantizer(const ModelWeights& model, const Recipe& recipe, StageSolver& solver,
                               Backend& backend, PhaseClock& phases, OnLayers on_layers,
                               OnSafePoint on_safe_point)
    : model_(model),
      recipe_(recipe),
      solver_(solver),
      backend_(backend),
      phases_(phases),
      on_layers_(std::move(on_layers)),
      on_safe_point_(std::move(on_safe_point)) {}

std::vector<LayerToQuantize> BlockQuantizer::chosen_layers(std::int64_t group, const BlockWeights& weights,
                                                           const DecoderBlock* block) const {
  std::vector<LayerToQuantize> chosen;
  const std::string prefix = block_prefix(model_.architecture(), weights.block);
  for (const LinearShape& layer : model_.groups()[static_cast<std::size_t>(group)].layers) {
    const std::string module = prefix + layer.name;
    if (!recipe_.selects(module)) continue;
    chosen.push_back({module, layer.name, &weights.at(layer.name + ".weight"),
                      block == nullptr ? nullptr : &block->linear(layer.name)});
  }
  return chosen;
}

DeviceBuffer BlockQuantizer::zeros(std::int64_t width) {
  DeviceBuffer buffer = backend_.allocate(static_cast<std::size_t>(width) * sizeof(float));
  backend_.set_zero(buffer.data(), buffer.size());
  return buffer;
}

/// The maximum on the host, once it is known to be finite.
std::vector<float> BlockQuantizer::finite_maximum(const DeviceBuffer& maximum, std::int64_t group,
                                                  Activations& activations, std::int64_t block_index) {
  std::vector<float> values(maximum.size() / sizeof(float));
  backend_.download(values.data(), maximum.data(), maximum.size());
  const bool finite =
      std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
  if (!finite) blame_a_sample(group, static_cast<std::int64_t>(values.size()), activations, block_index);
  return values;
}

void BlockQuantizer::blame_a_sample(std::int64_t group, std::int64_t width, Activations& activations,
                                    std::int64_t block_index) {
  Activations::Use use;
  use.x_width = width;
  activations.visit(use, [&](std::size_t chunk, const Matrix&, const Matrix& x, const Matrix&) {
    const Batch& batch = activations.batch(chunk);
    for (std::int64_t s = 0; s < batch.samples(); ++s) {
      const std::int64_t first = batch.offsets[static_cast<std::size_t>(s)];
      const std::int64_t rows = batch.offsets[static_cast<std::size_t>(s) + 1] - first;
      if (backend_.kernels().all_finite(x.rows_from(first, rows))) continue;
      throw NumericalError(
          "NaN or infinity in the activations: block {}, input of stage group {}, calibration sample {}. "
          "Look at that "
          "sample's text and at the weights of the blocks before; with compute.dtype bf16, try fp32.",
          block_index, model_.groups()[static_cast<std::size_t>(group)].name,
          activations.chunk(chunk).first_sample + s);
    }
  });
  contract_violation("a non-finite column maximum comes from one of the samples", __FILE__, __LINE__);
}

std::vector<float> BlockQuantizer::enter(DecoderBlock& block, Activations& activations,
                                         std::int64_t block_index) {
  const auto scope = phases_.in("forward");
  Activations::Use use;
  use.hidden = Activations::Use::read;
  use.next_width = block.group_width(0);
  const DeviceBuffer maximum = zeros(use.next_width);
  activations.visit(use, [&](std::size_t i, const Matrix& hidden, const Matrix&, const Matrix& next) {
    block.enter(activations.batch(i), hidden, next);
    backend_.kernels().column_max(next, maximum.as<float>());
  });
  return finite_maximum(maximum, 0, activations, block_index);
}

std::vector<float> BlockQuantizer::advance(std::int64_t group, DecoderBlock& block, Activations& activations,
                                           std::int64_t block_index) {
  const auto scope = phases_.in("forward");
  const bool last = group + 1 == block.groups();
  Activations::Use use;
  use.hidden = block.uses_hidden(group) ? Activations::Use::updated : Activations::Use::ignored;
  use.x_width = block.group_width(group);
  use.next_width = last ? 0 : block.group_width(group + 1);
  const DeviceBuffer maximum = zeros(use.next_width);
  activations.visit(use, [&](std::size_t i, const Matrix& hidden, const Matrix& x, const Matrix& next) {
    block.advance(group, activations.batch(i), hidden, x, next);
    if (!last) backend_.kernels().column_max(next, maximum.as<float>());
  });
  return last ? std::vector<float>() : finite_maximum(maximum, group + 1, activations, block_index);
}

std::vector<float> BlockQuantizer::column_maximum(std::int64_t group, const DecoderBlock& block,
                                                  Activations& activations, std::int64_t block_index) {
  const auto scope = phases_.in("forward");
  Activations::Use use;
  use.x_width = block.group_width(group);
  const DeviceBuffer maximum = zeros(use.x_width);
  activations.visit(use, [&](std::size_t, const Matrix&, const Matrix& x, const Matrix&) {
    backend_.kernels().column_max(x, maximum.as<float>());
  });
  return finite_maximum(maximum, group, activations, block_index);
}

void BlockQuantizer::quantize_group(const SafePoint& here, const BlockWeights& weights,
                                    const DecoderBlock& block, Activations& activations,
                                    std::vector<float> maximum, PartialSum before, QuantizedBlock& result) {
  const std::vector<LayerToQuantize> layers = chosen_layers(here.group, weights, &block);
  if (layers.empty()) return;
  const std::int64_t width = model_.groups()[static_cast<std::size_t>(here.group)].in_features;
  const auto on_round = [&](const HessianSum& sum, const std::vector<std::int64_t>& chunks) {
    SafePoint point = here;
    point.sum = &sum;
    point.chunks = chunks;
    on_safe_point_(point);
  };
  const StageFactor factor =
      solver_.factor(solver_.accumulate(activations, width, std::move(maximum), std::move(before), on_round));
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
    block.set_linear(layer.module.substr(prefix.size()), weights_of(layer));
  }
}

QuantizedBlock BlockQuantizer::run(const BlockWeights& weights, DecoderBlock& block, Activations& activations,
                                   BlockStart start) {
  QuantizedBlock result = std::move(start.finished);
  const bool sequential = recipe_.section().true_sequential;
  RowStore before;
  if (!sequential) before = start.group == 0 ? activations.copy_hidden() : std::move(start.hidden_before);

  std::vector<float> maximum = start.group == 0
                                   ? enter(block, activations, weights.block)
                                   : column_maximum(start.group, block, activations, weights.block);
  for (std::int64_t group = start.group; group < block.groups(); ++group) {
    SafePoint here{weights.block, group, &activations, 0, nullptr, nullptr, {}, &result};
    if (group > 0) {
      here.x_width = block.group_width(group);
      here.hidden_before = sequential ? nullptr : &before;
    }
    if (group > start.group) on_safe_point_(here);
    const std::size_t first_layer = result.layers.size();
    PartialSum sum = group == start.group ? std::move(start.sum) : PartialSum();
    quantize_group(here, weights, block, activations, std::move(maximum), std::move(sum), result);
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
    const std::vector<LayerToQuantize> layers =
        chosen_layers(static_cast<std::int64_t>(group), weights, nullptr);
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
