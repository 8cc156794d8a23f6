#include "model/decoder_block.h"

#include <cmath>
#include <utility>

#include "backend/device_matrix.h"
#include "base/error.h"

namespace gptq {
namespace {

/// Purposes of the backend's scratch memory, shared by all blocks.
enum Slot : int { kQuery, kKey, kValue, kGate, kUp, kInput, kNextInput };

std::vector<float> floats_of(const HostTensor& tensor) {
  const HostTensor converted = convert(tensor, DType::f32);
  const auto* const values = reinterpret_cast<const float*>(converted.storage.data());
  return {values, values + converted.elements()};
}

struct Linear {
  std::vector<float> bias;
  std::shared_ptr<const LinearWeights> weights;
};

}  // namespace

struct DecoderBlock::State {
  Backend& backend;
  Kernels& kernels;
  const Architecture& names;
  const ModelConfig& config;
  RotaryTable rotary;
  DType compute;
  std::int64_t index;
  AttentionShape attention;
  std::vector<std::int64_t> widths;  // of the groups' inputs
  std::map<std::string, Linear, std::less<>> linears;
  // floats; null: the model has none. Shared by copies of the block.
  std::shared_ptr<const DeviceMatrix> attention_norm, mlp_norm, q_norm, k_norm;

  State(Backend& place, const ModelWeights& model, const BlockWeights& weights, const DeviceRotary& table,
        DType dtype)
      : backend(place),
        kernels(place.kernels()),
        names(model.architecture()),
        config(model.config()),
        rotary(table.table()),
        compute(dtype),
        index(weights.block) {
    attention = {config.num_attention_heads,
                 config.num_key_value_heads,
                 config.head_dim,
                 1.0f / std::sqrt(static_cast<float>(config.head_dim)),
                 window(),
                 0};
    attention_norm = norm_weight(weights, names.attention_norm);
    mlp_norm = norm_weight(weights, names.mlp_norm);
    if (!names.q_norm.empty()) q_norm = norm_weight(weights, names.q_norm);
    if (!names.k_norm.empty()) k_norm = norm_weight(weights, names.k_norm);
    for (const StageGroup& group : model.groups()) {
      widths.push_back(group.in_features);
      for (const LinearShape& layer : group.layers) add_linear(layer, weights);
    }
  }

  static std::string weight_name(std::string_view module) { return std::string(module) + ".weight"; }

  std::shared_ptr<const DeviceMatrix> norm_weight(const BlockWeights& weights, std::string_view module) {
    return std::make_shared<const DeviceMatrix>(backend,
                                                convert(weights.at(weight_name(module)), DType::f32));
  }

  std::int64_t window() const {
    const bool sliding =
        config.layer_is_sliding.empty() || config.layer_is_sliding[static_cast<std::size_t>(index)];
    return sliding ? config.sliding_window : 0;
  }

  void add_linear(const LinearShape& layer, const BlockWeights& weights) {
    Linear linear;
    if (layer.bias) linear.bias = floats_of(weights.at(layer.name + ".bias"));
    linear.weights =
        kernels.prepare_linear(weights.at(layer.name + ".weight").matrix(), linear.bias, compute);
    linears.emplace(layer.name, std::move(linear));
  }

  Matrix scratch(Slot slot, std::int64_t rows, std::int64_t cols) {
    return {backend.scratch(slot, static_cast<std::size_t>(rows * cols) * size_of(compute)), compute, rows,
            cols, cols};
  }

  void apply(std::string_view name, const Batch& batch, const Matrix& x, const Matrix& y, bool accumulate) {
    kernels.linear(batch, x, *linears.find(name)->second.weights, y, accumulate);
  }

  void norm(const Matrix& hidden, const DeviceMatrix& weight, const Matrix& y) {
    kernels.rms_norm(hidden, weight.floats(), config.rms_norm_eps, names.norm_weight_offset, y);
  }

  /// q, k, v from the normed stream; attention's result is the next input.
  void attend(const Batch& batch, const Matrix& x, const Matrix& x_next) {
    const std::int64_t keys = attention.kv_heads * attention.head_dim;
    const Matrix q = scratch(kQuery, x.rows, attention.heads * attention.head_dim);
    const Matrix k = scratch(kKey, x.rows, keys);
    const Matrix v = scratch(kValue, x.rows, keys);
    apply(names.q, batch, x, q, false);
    apply(names.k, batch, x, k, false);
    apply(names.v, batch, x, v, false);
    if (!names.q_norm.empty())
      kernels.head_rms_norm(q, q_norm->floats(), config.rms_norm_eps, names.norm_weight_offset);
    if (!names.k_norm.empty())
      kernels.head_rms_norm(k, k_norm->floats(), config.rms_norm_eps, names.norm_weight_offset);
    kernels.rotary(batch, q, attention.head_dim, rotary);
    kernels.rotary(batch, k, attention.head_dim, rotary);
    kernels.attention(batch, attention, q, k, v, x_next);
  }

  /// x is read to the end before x_next is written: the caller may give both the same memory.
  void gate(const Batch& batch, const Matrix& x, const Matrix& x_next) {
    const Matrix gated = scratch(kGate, x.rows, config.intermediate_size);
    const Matrix up = scratch(kUp, x.rows, config.intermediate_size);
    apply(names.gate, batch, x, gated, false);
    apply(names.up, batch, x, up, false);
    kernels.gated_activation(config.activation, gated, up, x_next);
  }
};

DecoderBlock::DecoderBlock(Backend& backend, const ModelWeights& model, const BlockWeights& weights,
                           const DeviceRotary& rotary, DType compute)
    : state_(std::make_unique<State>(backend, model, weights, rotary, compute)) {}

DecoderBlock::DecoderBlock(std::unique_ptr<State> state) : state_(std::move(state)) {}

DecoderBlock::~DecoderBlock() = default;

std::unique_ptr<DecoderBlock> DecoderBlock::copy() const {
  return std::unique_ptr<DecoderBlock>(new DecoderBlock(std::make_unique<State>(*state_)));
}

std::int64_t DecoderBlock::groups() const {
  return static_cast<std::int64_t>(state_->widths.size());
}

std::int64_t DecoderBlock::group_width(std::int64_t group) const {
  return state_->widths.at(static_cast<std::size_t>(group));
}

void DecoderBlock::enter(const Batch& batch, const Matrix& hidden, const Matrix& x0) {
  GPTQ_EXPECT(hidden.rows == batch.rows() && x0.cols == group_width(0));
  state_->norm(hidden, *state_->attention_norm, x0);
}

void DecoderBlock::advance(std::int64_t group, const Batch& batch, const Matrix& hidden, const Matrix& x,
                           const Matrix& x_next) {
  State& state = *state_;
  GPTQ_EXPECT(x.cols == group_width(group) && (group == 3 || x_next.cols == group_width(group + 1)));
  switch (group) {
    case 0:
      return state.attend(batch, x, x_next);
    case 1:
      state.apply(state.names.o, batch, x, hidden, true);
      return state.norm(hidden, *state.mlp_norm, x_next);
    case 2:
      return state.gate(batch, x, x_next);
    case 3:
      return state.apply(state.names.down, batch, x, hidden, true);
    default:
      contract_violation("a block has four stage groups", __FILE__, __LINE__);
  }
}

const LinearWeights& DecoderBlock::linear(const std::string& name) const {
  const auto found = state_->linears.find(name);
  GPTQ_EXPECT(found != state_->linears.end());
  return *found->second.weights;
}

void DecoderBlock::set_linear(const std::string& name, const QuantizedWeights& weight) {
  const auto found = state_->linears.find(name);
  GPTQ_EXPECT(found != state_->linears.end());
  Linear& linear = found->second;
  GPTQ_EXPECT(weight.out_features == linear.weights->out_features() &&
              weight.in_features == linear.weights->in_features());
  linear.weights = state_->kernels.prepare_quantized(weight, linear.bias, state_->compute);
}

void DecoderBlock::forward(const Batch& batch, const Matrix& hidden) {
  Matrix x = state_->scratch(kInput, hidden.rows, group_width(0));
  enter(batch, hidden, x);
  for (std::int64_t group = 0; group < groups(); ++group) {
    Matrix next;
    if (group + 1 < groups()) {
      next = state_->scratch(group % 2 == 0 ? kNextInput : kInput, hidden.rows, group_width(group + 1));
    }
    advance(group, batch, hidden, x, next);
    x = next;
  }
}

}  // namespace gptq
