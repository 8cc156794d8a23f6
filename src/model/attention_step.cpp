#include "model/attention_step.h"

#include <fmt/format.h>

#include <cstring>

#include "base/error.h"

namespace gptq {
namespace {

/// Vectors one behind the other.
HostTensor joined(const std::vector<HostTensor>& parts) {
  std::int64_t elements = 0;
  for (const HostTensor& part : parts) elements += part.elements();
  HostTensor all = make_tensor(DType::f32, {elements});
  auto* to = reinterpret_cast<float*>(all.storage.data());
  for (const HostTensor& part : parts) {
    std::memcpy(to, part.storage.data(), part.storage.size());
    to += part.elements();
  }
  return all;
}

}  // namespace

AttentionStep::AttentionStep(Backend& backend, const Architecture& names, const ModelConfig& config,
                             const BlockWeights& weights, const DevicePositions& positions)
    : names_(names), form_(config.qkv_form), positions_(&positions) {
  const ModelConfig::BlockAttention& own = config.attention.at(static_cast<std::size_t>(weights.block));
  shape_.heads = config.num_attention_heads;
  shape_.kv_heads = config.num_key_value_heads;
  shape_.head_dim = config.head_dim;
  shape_.scale = own.scale;
  shape_.window = own.window;
  shape_.logit_softcap = config.attention_softcap;
  rope_ = config.positions == Positions::rotary ? own.rope : -1;
  if (config.head_norm == HeadNorm::none) return;
  q_norm_ = head_norm(backend, config, weights, names.q_norm, shape_.heads);
  k_norm_ = head_norm(backend, config, weights, names.k_norm, shape_.kv_heads);
}

std::shared_ptr<const Norm> AttentionStep::head_norm(Backend& backend, const ModelConfig& config,
                                                     const BlockWeights& weights, std::string_view module,
                                                     std::int64_t heads) const {
  const std::string name = std::string(module) + ".weight";
  std::vector<HostTensor> parts;
  if (config.head_norm == HeadNorm::per_head) {
    for (std::int64_t head = 0; head < heads; ++head)
      parts.push_back(convert(weights.at(fmt::format(fmt::runtime(name), head)), DType::f32));
  } else {
    parts.push_back(convert(weights.at(name), DType::f32));
  }
  const std::int64_t features =
      config.head_norm == HeadNorm::whole ? heads * config.head_dim : config.head_dim;
  return std::make_shared<const Norm>(backend, names_.norm, config, names_.norm_weight_offset, features,
                                      joined(parts), nullptr);
}

AttentionStep::Heads AttentionStep::project(const BlockLayers& layers, const Batch& batch,
                                            const Matrix& x) const {
  const std::int64_t queries = shape_.heads * shape_.head_dim;
  const std::int64_t keys = shape_.kv_heads * shape_.head_dim;
  if (form_ != QkvForm::separate) {
    const Matrix fused = layers.scratch(BlockSlot::fused, x.rows, queries + 2 * keys);
    layers.apply(names_.qkv, batch, x, fused);
    return take_apart(layers, fused);
  }
  const Heads heads{layers.scratch(BlockSlot::query, x.rows, queries),
                    layers.scratch(BlockSlot::key, x.rows, keys),
                    layers.scratch(BlockSlot::value, x.rows, keys)};
  layers.apply(names_.q, batch, x, heads.q);
  layers.apply(names_.k, batch, x, heads.k);
  layers.apply(names_.v, batch, x, heads.v);
  return heads;
}

AttentionStep::Heads AttentionStep::take_apart(const BlockLayers& layers, const Matrix& fused) const {
  const std::int64_t dim = shape_.head_dim;
  const std::int64_t queries = shape_.heads * dim, keys = shape_.kv_heads * dim;
  if (form_ == QkvForm::side_by_side) {
    return {fused.cols_from(0, queries), fused.cols_from(queries, keys),
            fused.cols_from(queries + keys, keys)};
  }
  const Heads heads{layers.scratch(BlockSlot::query, fused.rows, queries),
                    layers.scratch(BlockSlot::key, fused.rows, keys),
                    layers.scratch(BlockSlot::value, fused.rows, keys)};
  // A group: the queries of a key head, the key, the value. by_head is by_group with one query each.
  const std::int64_t per_group = shape_.heads / shape_.kv_heads;
  const std::int64_t pitch = (per_group + 2) * dim;
  Kernels& kernels = layers.kernels();
  for (std::int64_t i = 0; i < per_group; ++i) {
    kernels.copy_heads(fused, {i * dim, pitch, dim}, heads.q, {i * dim, per_group * dim, dim},
                       shape_.kv_heads);
  }
  kernels.copy_heads(fused, {per_group * dim, pitch, dim}, heads.k, {0, dim, dim}, shape_.kv_heads);
  kernels.copy_heads(fused, {(per_group + 1) * dim, pitch, dim}, heads.v, {0, dim, dim}, shape_.kv_heads);
  return heads;
}

void AttentionStep::attend(const BlockLayers& layers, const Batch& batch, const Heads& heads,
                           const Matrix& out) const {
  Kernels& kernels = layers.kernels();
  if (q_norm_) q_norm_->apply(kernels, heads.q, heads.q);
  if (k_norm_) k_norm_->apply(kernels, heads.k, heads.k);
  if (rope_ >= 0) {
    kernels.rotary(batch, heads.q, shape_.head_dim, positions_->rotary(rope_));
    kernels.rotary(batch, heads.k, shape_.head_dim, positions_->rotary(rope_));
  }
  AttentionShape shape = shape_;
  shape.key_bias = positions_->key_bias();
  shape.key_bias_positions = shape.key_bias == nullptr ? 0 : positions_->positions();
  kernels.attention(batch, shape, heads.q, heads.k, heads.v, out);
}

}  // namespace gptq
