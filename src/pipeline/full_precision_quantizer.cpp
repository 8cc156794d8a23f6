#include "pipeline/full_precision_quantizer.h"

#include <iterator>
#include <optional>
#include <utility>

#include "pipeline/chosen_layers.h"
#include "pipeline/reference_pass.h"

namespace gptq {

FullPrecisionQuantizer::FullPrecisionQuantizer(const Tools& tools, const BlockWeights& weights,
                                               DecoderBlock& block, KeptInputs& kept)
    : tools_(tools), weights_(weights), block_(block), kept_(kept) {}

void FullPrecisionQuantizer::pass(Activations& stream) {
  const auto scope = tools_.phases.in("forward");
  const bool weighs = tools_.recipe.section().token_weight == "residual";
  ReferencePass reference(tools_.backend, weights_.block, block_, stream, kept_, weighs,
                          tools_.model.config().norm_eps);
  tools_.let_go(stream, [&] { reference.run(); });
  maxima_ = reference.maxima();
}

void FullPrecisionQuantizer::solve_group(std::int64_t group, QuantizedBlock& result) {
  const StageGroup& own = layout().group(group);
  const std::vector<LayerToQuantize> layers =
      chosen_layers(tools_.model, tools_.recipe, own, weights_, &block_);
  if (layers.empty()) return;
  const std::int64_t step = layout().step_of(group);
  const std::vector<float>& maximum = maxima_.at(static_cast<std::size_t>(step));
  StageInput input(kept_.of(step), nullptr, static_cast<std::int64_t>(maximum.size()), own.first_column,
                   own.in_features);
  const auto first = maximum.begin() + own.first_column;
  input.maximum.assign(first, first + own.in_features);
  const StageSums sums = tools_.summer.accumulate(
      input, {},
      [](const StageSums&, const std::vector<std::int64_t>&) {});  // safe points lie between rounds
  std::optional<HeldOutJudge> judge;
  if (tools_.holds_out)
    judge.emplace(tools_.backend, tools_.comm, input, input.activations.compute(), tools_.phases);
  SolvedStage solved = tools_.solver.solve(sums, layers, weights_.block, judge ? &*judge : nullptr);
  tools_.on_layers(solved.statistics);
  std::move(solved.layers.begin(), solved.layers.end(), std::back_inserter(result.layers));
  std::move(solved.statistics.begin(), solved.statistics.end(), std::back_inserter(result.statistics));
}

QuantizedBlock FullPrecisionQuantizer::solve() {
  QuantizedBlock result;
  for (std::int64_t group = 0; group < layout().groups(); ++group) solve_group(group, result);
  return result;
}

void FullPrecisionQuantizer::pass_quantized(Activations& held_out, const QuantizedBlock& quantized) {
  const auto scope = tools_.phases.in("held out");
  const std::string prefix = block_prefix(tools_.model.architecture(), weights_.block);
  for (const QuantizedLayer& layer : quantized.layers)
    block_.set_linear(layer.module.substr(prefix.size()), weights_of(layer));
  tools_.let_go(held_out, [&] {
    Activations::Use use;
    use.hidden = Activations::Use::updated;
    held_out.visit(use, [&](std::size_t i, const Matrix& hidden, const Matrix&, const Matrix&) {
      block_.forward(held_out.batch(i), hidden);
    });
  });
}

}  // namespace gptq
