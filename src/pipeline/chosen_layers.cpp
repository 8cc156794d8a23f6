#include "pipeline/chosen_layers.h"

#include <utility>

namespace gptq {
namespace {

std::vector<float> floats_of(const HostTensor& tensor) {
  const HostTensor converted = convert(tensor, DType::f32);
  const auto* const values = reinterpret_cast<const float*>(converted.storage.data());
  return {values, values + converted.elements()};
}

}  // namespace

std::vector<LayerToQuantize> chosen_layers(const ModelWeights& model, const Recipe& recipe,
                                           const StageGroup& group, std::int64_t block) {
  std::vector<LayerToQuantize> chosen;
  const std::string prefix = block_prefix(model.architecture(), block);
  for (const LinearShape& layer : group.layers) {
    const std::string module = prefix + layer.name;
    if (recipe.selects(module))
      chosen.push_back({module, layer.name, nullptr, nullptr, {}, layer.out_features, layer.in_features});
  }
  return chosen;
}

std::vector<LayerToQuantize> chosen_layers(const ModelWeights& model, const Recipe& recipe,
                                           const StageGroup& group, const BlockWeights& weights,
                                           const DecoderBlock* prepared) {
  std::vector<LayerToQuantize> chosen = chosen_layers(model, recipe, group, weights.block);
  for (LayerToQuantize& layer : chosen) {
    layer.weight = &weights.at(layer.name + ".weight");
    if (prepared != nullptr) layer.prepared = &prepared->linear(layer.name);
    for (const LinearShape& shape : group.layers) {
      if (shape.name == layer.name && shape.bias) layer.bias = floats_of(weights.at(layer.name + ".bias"));
    }
  }
  return chosen;
}

}  // namespace gptq
