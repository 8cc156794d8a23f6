#include "model/block_layers.h"

#include "base/error.h"

namespace gptq {
namespace {

std::vector<float> floats_of(const HostTensor& tensor) {
  const HostTensor converted = convert(tensor, DType::f32);
  const auto* const values = reinterpret_cast<const float*>(converted.storage.data());
  return {values, values + converted.elements()};
}

}  // namespace

BlockLayers::BlockLayers(Backend& backend, const BlockLayout& layout, const BlockWeights& weights,
                         DType compute)
    : backend_(&backend), compute_(compute) {
  for (const LinearShape& layer : layout.layers()) {
    Linear linear;
    if (layer.bias) linear.bias = floats_of(weights.at(layer.name + ".bias"));
    linear.weights =
        kernels().prepare_linear(weights.at(layer.name + ".weight").matrix(), linear.bias, compute);
    linears_.emplace(layer.name, std::move(linear));
  }
}

Matrix BlockLayers::scratch(BlockSlot slot, std::int64_t rows, std::int64_t cols, DType dtype) const {
  const std::size_t bytes = static_cast<std::size_t>(rows * cols) * size_of(dtype);
  return {backend_->scratch(static_cast<int>(slot), bytes), dtype, rows, cols, cols};
}

void BlockLayers::apply(std::string_view name, const Batch& batch, const Matrix& x, const Matrix& y,
                        bool accumulate) const {
  kernels().linear(batch, x, linear(name), y, accumulate);
}

const LinearWeights& BlockLayers::linear(std::string_view name) const {
  const auto found = linears_.find(name);
  GPTQ_EXPECT(found != linears_.end());
  return *found->second.weights;
}

void BlockLayers::set_linear(std::string_view name, const QuantizedWeights& weight) {
  const auto found = linears_.find(name);
  GPTQ_EXPECT(found != linears_.end());
  Linear& linear = found->second;
  GPTQ_EXPECT(weight.out_features == linear.weights->out_features() &&
              weight.in_features == linear.weights->in_features());
  linear.weights = kernels().prepare_quantized(weight, linear.bias, compute_);
}

}  // namespace gptq
