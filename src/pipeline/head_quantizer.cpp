#include "pipeline/head_quantizer.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "model/model_ends.h"

namespace gptq {

/// x = final norm of hidden; returns its columns' largest magnitudes.
std::vector<float> HeadQuantizer::normalize(Activations& stream) {
  const auto scope = tools_.phases.in("forward");
  Backend& backend = tools_.backend;
  const ModelConfig& config = tools_.model.config();
  const FinalNorm norm(backend, tools_.model);
  const auto width = static_cast<std::size_t>(config.hidden_size);
  const DeviceBuffer maximum = backend.allocate(width * sizeof(float));
  backend.set_zero(maximum.data(), maximum.size());
  Activations::Use use;
  use.hidden = Activations::Use::read;
  use.next_width = config.hidden_size;
  stream.visit(use, [&](std::size_t, const Matrix& hidden, const Matrix&, const Matrix& next) {
    norm.run(hidden, next);
    backend.kernels().column_max(next, maximum.as<float>());
  });
  std::vector<float> values(width);
  backend.download(values.data(), maximum.data(), maximum.size());
  if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) {
    throw NumericalError(
        "NaN or infinity in the head's input: the last blocks' activations overflow; with compute.dtype "
        "bf16, "
        "try fp32");
  }
  return values;
}

SolvedStage HeadQuantizer::run(Activations* quantized, Activations* reference) {
  const ModelConfig& config = tools_.model.config();
  const std::string name(tools_.model.architecture().head);
  const HostTensor weight = tools_.model.load_head();
  LayerToQuantize layer{name, name, &weight, nullptr, {}};
  if (quantized == nullptr) return tools_.solver.round_to_nearest({layer}, config.num_hidden_layers);

  StageInput input(*quantized, reference, config.hidden_size);
  input.maximum = normalize(*quantized);
  if (reference != nullptr) {
    input.reference_maximum = normalize(*reference);
    input.corrected = tools_.recipe.corrects(name) && tools_.recipe.section().correction_target == "output";
  }
  // No safe point in here: a job that is stopped now begins with the head again.
  const StageSums sums =
      tools_.summer.accumulate(input, {}, [](const StageSums&, const std::vector<std::int64_t>&) {});
  std::unique_ptr<LinearWeights> prepared;
  std::optional<HeldOutJudge> judge;
  if (tools_.holds_out) {
    prepared = tools_.backend.kernels().prepare_linear(weight.matrix(), {}, compute_);
    layer.prepared = prepared.get();
    judge.emplace(tools_.backend, tools_.comm, input, compute_, tools_.phases);
  }
  return tools_.solver.solve(sums, {layer}, config.num_hidden_layers, judge ? &*judge : nullptr);
}

}  // namespace gptq
