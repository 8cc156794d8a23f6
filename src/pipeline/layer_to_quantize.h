#pragma once

#include <string>
#include <vector>

#include "quant/quantized_layer.h"

namespace gptq {

/// A layer chosen for quantization: its place in the model and its original weight.
struct LayerToQuantize {
  std::string module;                              ///< full name
  std::string name;                                ///< inside the block
  const HostTensor* weight = nullptr;              ///< (out, in) or a convolution's (out, in, k...);
                                                   ///< null on a rank that helps
  const LinearWeights* prepared = nullptr;         ///< the same where it computes; null: not there
  std::vector<float> bias;                         ///< (out); empty: none
  std::int64_t out_features = 0, in_features = 0;  ///< given where there is no weight

  std::int64_t rows() const { return weight != nullptr ? weight->shape[0] : out_features; }
  std::int64_t columns() const { return weight != nullptr ? weight->matrix().cols : in_features; }
};

struct SolvedStage {
  std::vector<QuantizedLayer> layers;       ///< in the order asked for, complete on every rank
  std::vector<LayerStatistics> statistics;  ///< likewise
};

}  // namespace gptq
