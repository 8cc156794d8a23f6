#pragma once

#include <cstdint>
#include <vector>

#include "model/decoder_block.h"
#include "pipeline/layer_to_quantize.h"
#include "quant/recipe.h"

namespace gptq {

/// The layers of a stage group that the recipe quantizes. weights: of the block; prepared: the same where it
/// computes, null: nothing is propagated.
std::vector<LayerToQuantize> chosen_layers(const ModelWeights& model, const Recipe& recipe,
                                           const StageGroup& group, const BlockWeights& weights,
                                           const DecoderBlock* prepared);
/// The same for a rank that has no weights of the block, and helps.
std::vector<LayerToQuantize> chosen_layers(const ModelWeights& model, const Recipe& recipe,
                                           const StageGroup& group, std::int64_t block);

}  // namespace gptq
