#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "config/job_config.h"
#include "model/weights.h"
#include "quant/packing.h"
#include "quant/quantized_layer.h"

namespace gptq {

/// The tensors that stand for a block's quantized layers in the output, made when they are asked for and
/// handed out once: about one layer is in memory at a time, and the scales.
class LayerTensors {
 public:
  /// prefix: the block's ("model.layers.7."). is_transposed: ordinary weights lie as (in, out) in files.
  /// Borrows all but the output section.
  LayerTensors(const OutputSection& output, const BlockWeights& weights,
               const std::vector<QuantizedLayer>& layers, const std::string& prefix, bool is_transposed);

  /// A tensor of each layer that must have a place in the output.
  std::vector<std::string> names() const;
  /// Nothing if the tensor is no part of a quantized layer. dtype: its type in the output. Throws InputError
  /// for a bias or a dequantized weight that does not fit into fp16.
  std::optional<HostTensor> take(const std::string& name, DType dtype);

 private:
  void pack_layer(const QuantizedLayer& layer);
  HostTensor dequantized(const QuantizedLayer& layer, const std::string& name, DType dtype) const;

  bool dequantized_;
  bool transposed_;
  CheckpointFormat format_;
  const BlockWeights& weights_;
  const std::vector<QuantizedLayer>& layers_;
  const std::string& prefix_;
  std::map<std::string, const QuantizedLayer*> layer_of_;
  std::map<std::string, HostTensor> ready_;
};

}  // namespace gptq
