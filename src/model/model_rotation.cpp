#include "model/model_rotation.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/error.h"
#include "model/safetensors_reader.h"
#include "model/weights.h"

namespace gptq {
namespace {

/// Streams of random signs: the residual stream's, then one a block for its heads' values.
constexpr std::uint32_t kResidualStream = 0;
constexpr std::uint32_t kFirstBlockStream = 1;

std::string weight_of(std::string_view module) {
  return std::string(module) + ".weight";
}

template <typename... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> reason, Args&&... args) {
  throw UsageError("quantization.rotation: hadamard does not fit this model: {}; set it to none",
                   fmt::format(reason, std::forward<Args>(args)...));
}

/// The tensors whose part in the forward pass the rotation accounts for.
std::set<std::string> known_tensors(const ModelConfig& config, const Architecture& names) {
  std::set<std::string> known{weight_of(names.embedding), weight_of(names.final_norm), weight_of(names.head)};
  for (std::int64_t block = 0; block < config.num_hidden_layers; ++block) {
    const std::string prefix = block_prefix(names, block);
    const BlockLayout layout = make_layout(names, config, block);
    for (const TensorShape& norm : layout.norms) known.insert(prefix + norm.name);
    for (const LinearShape& layer : layout.layers()) {
      known.insert(prefix + weight_of(layer.name));
      if (layer.bias) known.insert(prefix + layer.name + ".bias");
    }
  }
  return known;
}

void require_known_tensors(const ModelConfig& config, const Architecture& names,
                           const SafetensorsReader& files) {
  const std::set<std::string> known = known_tensors(config, names);
  for (const auto& [name, info] : files.tensors()) {
    if (name.ends_with(".qweight")) refuse("it is quantized already ('{}')", name);
    if (known.contains(name) || name.ends_with("rotary_emb.inv_freq")) continue;
    refuse("'{}' is no tensor of a {} model as this program knows it, and may read or write what is turned",
           name, config.model_type);
  }
}

/// Checked before a Rotation is made, which takes no other widths.
std::int64_t turnable_width(const ModelConfig& config, const Architecture& names) {
  if (!names.rotates) refuse("its family, {}, is not one that this program can turn", names.model_type);
  if (names.norm_weight_offset != 0) {
    refuse("its norms multiply by weight + {}, which cannot be folded away", names.norm_weight_offset);
  }
  for (const auto& [key, width] : {std::pair<const char*, std::int64_t>{"hidden_size", config.hidden_size},
                                   {"head_dim", config.head_dim}}) {
    if (const auto obstacle = Rotation::obstacle(width)) refuse("{} is {}", key, *obstacle);
  }
  return config.hidden_size;
}

}  // namespace

ModelRotation::ModelRotation(const ModelConfig& config, const Architecture& architecture,
                             const SafetensorsReader& files, RotationRounding rounding)
    : config_(config),
      architecture_(architecture),
      rounding_(std::move(rounding)),
      stream_(turnable_width(config, architecture), kResidualStream) {
  require_known_tensors(config, architecture, files);
}

HostTensor ModelRotation::turned(HostTensor tensor, const WeightTurn& how, DType dtype,
                                 const std::string& name) const {
  HostTensor result = dtype == tensor.dtype ? HostTensor() : make_tensor(dtype, tensor.shape);
  HostTensor& target = dtype == tensor.dtype ? tensor : result;
  if (!turn_weight(tensor.matrix(), how, target.matrix())) {
    throw InputError("{} no longer fits into {} when it is turned; set quantization.rotation: none", name,
                     name_of(dtype));
  }
  return std::move(target);
}

WeightTurn ModelRotation::turn_of(const std::string& layer, const Rotation& values) const {
  const Architecture& names = architecture_;
  if (layer == names.v) return {nullptr, &stream_, &values};
  if (layer == names.o) return {nullptr, &values, &stream_};
  if (layer == names.down) return {nullptr, nullptr, &stream_};
  return {nullptr, &stream_, nullptr};  // q, k, gate, up
}

DType ModelRotation::weight_type(const std::string& module, DType source) const {
  return rounding_.quantized(module) ? DType::f32 : source;
}

void ModelRotation::turn_layer(const LinearShape& layer, const Rotation& values,
                               BlockWeights& weights) const {
  const std::string module = block_prefix(architecture_, weights.block) + layer.name;
  WeightTurn how = turn_of(layer.name, values);
  HostTensor norm;
  if (how.inputs == &stream_) {
    const bool mlp = layer.name == architecture_.gate || layer.name == architecture_.up;
    norm = convert(weights.at(weight_of(mlp ? architecture_.mlp_norm : architecture_.attention_norm)),
                   DType::f32);
    how.input_scale = &norm;
  }
  HostTensor& weight = weights.tensors.at(weight_of(layer.name));
  weight = turned(std::move(weight), how, weight_type(module, weight.dtype), weight_of(module));
  if (!layer.bias) return;
  HostTensor& bias = weights.tensors.at(layer.name + ".bias");
  const bool half = rounding_.half_biases && rounding_.quantized(module);
  bias = turned(std::move(bias), {nullptr, how.outputs, nullptr}, half ? DType::f16 : bias.dtype,
                module + ".bias");
}

void ModelRotation::turn(BlockWeights& weights) const {
  const Rotation values(config_.head_dim, kFirstBlockStream + static_cast<std::uint32_t>(weights.block));
  for (const LinearShape& layer : make_layout(architecture_, config_, weights.block).layers())
    turn_layer(layer, values, weights);
  for (const std::string_view name : {architecture_.attention_norm, architecture_.mlp_norm}) {
    HostTensor& norm = weights.tensors.at(weight_of(name));
    norm = folded_norm(std::move(norm));
  }
}

HostTensor ModelRotation::turned_embedding(HostTensor table) const {
  const DType dtype = table.dtype;
  return turned(std::move(table), {nullptr, &stream_, nullptr}, dtype, weight_of(architecture_.embedding));
}

HostTensor ModelRotation::turned_head(HostTensor table, const HostTensor& final_norm) const {
  const HostTensor norm = convert(final_norm, DType::f32);
  const DType dtype = table.dtype;
  return turned(std::move(table), {&norm, &stream_, nullptr}, dtype, weight_of(architecture_.head));
}

HostTensor ModelRotation::folded_norm(HostTensor norm) {
  HostTensor ones = make_tensor(DType::f32, norm.shape);
  std::fill_n(ones.matrix().row<float>(0), ones.elements(), 1.0f);
  return convert(ones, norm.dtype);
}

}  // namespace gptq
