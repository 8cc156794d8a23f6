#include "io/layer_tensors.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "io/output_layout.h"
#include "quant/packing.h"

namespace gptq {
namespace {

/// Only a type of a small range can be too small: bf16 holds what f32 does.
bool fits(const HostTensor& tensor) {
  if (tensor.dtype != DType::f16) return true;
  const auto* values = reinterpret_cast<const f16*>(tensor.storage.data());
  return std::all_of(values, values + tensor.elements(), [](f16 v) { return std::isfinite(to_float(v)); });
}

/// A bias in the type that loaders of GPTQ models expect.
HostTensor half_bias(const HostTensor& bias, const std::string& name) {
  HostTensor half = convert(bias, DType::f16);
  if (!fits(half)) {
    throw InputError(
        "{}: an element does not fit into fp16, the type of biases in this format; exclude the module", name);
  }
  return half;
}

}  // namespace

LayerTensors::LayerTensors(const OutputSection& output, const BlockWeights& weights,
                           const std::vector<QuantizedLayer>& layers, const std::string& prefix,
                           bool is_transposed)
    : dequantized_(is_dequantized(output)),
      transposed_(is_transposed),
      format_(find_checkpoint_format(output.checkpoint_format).value()),
      weights_(weights),
      layers_(layers),
      prefix_(prefix) {
  for (const QuantizedLayer& layer : layers) {
    if (dequantized_) {
      layer_of_[layer.module + ".weight"] = &layer;
      continue;
    }
    for (const char* part : {".qweight", ".qzeros", ".scales", ".g_idx", ".bias"}) {
      layer_of_[layer.module + part] = &layer;
    }
  }
}

std::vector<std::string> LayerTensors::names() const {
  std::vector<std::string> names;
  for (const QuantizedLayer& layer : layers_)
    names.push_back(layer.module + (dequantized_ ? ".weight" : ".qweight"));
  return names;
}

std::optional<HostTensor> LayerTensors::take(const std::string& name, DType dtype) {
  const auto layer = layer_of_.find(name);
  if (layer == layer_of_.end()) return std::nullopt;
  if (dequantized_) return dequantized(*layer->second, name, dtype);
  if (name.ends_with(".bias")) return half_bias(weights_.at(name.substr(prefix_.size())), name);
  if (!ready_.contains(name)) pack_layer(*layer->second);
  return std::move(ready_.extract(name).mapped());
}

void LayerTensors::pack_layer(const QuantizedLayer& layer) {
  PackedLayer packed = pack(layer, format_);
  ready_[layer.module + ".qweight"] = std::move(packed.qweight);
  ready_[layer.module + ".qzeros"] = std::move(packed.qzeros);
  ready_[layer.module + ".scales"] = std::move(packed.scales);
  ready_[layer.module + ".g_idx"] = std::move(packed.g_idx);
}

HostTensor LayerTensors::dequantized(const QuantizedLayer& layer, const std::string& name,
                                     DType dtype) const {
  HostTensor weight = convert(dequantize(weights_of(layer)), dtype);
  if (!fits(weight)) {
    throw InputError("{}: a dequantized weight does not fit into the source's fp16; set output.format: gptq",
                     name);
  }
  return transposed_ ? transposed(weight) : std::move(weight);
}

}  // namespace gptq
