#pragma once

#include <string>
#include <vector>

#include "quant/quantized_layer.h"

namespace gptq {

/// A layer chosen for quantization: its place in the model and its original weight.
struct LayerToQuantize {
  std::string module;                       ///< full name
  std::string name;                         ///< inside the block
  const HostTensor* weight = nullptr;       ///< (out, in)
  const LinearWeights* prepared = nullptr;  ///< the same where it computes; null: not there
  std::vector<float> bias;                  ///< (out); empty: none
};

struct SolvedStage {
  std::vector<QuantizedLayer> layers;       ///< in the order asked for, complete on every rank
  std::vector<LayerStatistics> statistics;  ///< likewise
};

}  // namespace gptq
