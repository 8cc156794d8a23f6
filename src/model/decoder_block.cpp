#include "model/decoder_block.h"

#include <utility>

#include "base/error.h"
#include "model/attention_step.h"
#include "model/mlp_step.h"

namespace gptq {

struct DecoderBlock::State {
  const Architecture& names;
  const ModelConfig& config;
  const BlockLayout& layout;
  BlockLayers layers;
  AttentionStep attention;
  MlpStep mlp;
  // Null: the family has none. Shared by copies of the block.
  std::shared_ptr<const Norm> attention_norm, mlp_norm, attention_out_norm, mlp_out_norm;

  State(Backend& backend, const ModelWeights& model, const BlockWeights& weights,
        const DevicePositions& positions, DType compute)
      : names(model.architecture()),
        config(model.config()),
        layout(model.layout(weights.block)),
        layers(backend, layout, weights, compute),
        attention(backend, names, config, weights, positions),
        mlp(names, config) {
    const bool two = config.block_form == BlockForm::parallel_two_norms;
    const auto side = [&](std::string_view own, std::string_view usual) {
      return two && !own.empty() ? own : usual;
    };
    if (names.norm_place != NormPlace::behind) {
      attention_norm = norm(backend, weights, side(names.side_attention_norm, names.attention_norm));
      if (config.block_form != BlockForm::parallel)
        mlp_norm = norm(backend, weights, side(names.side_mlp_norm, names.mlp_norm));
    }
    if (names.norm_place == NormPlace::before) return;
    attention_out_norm = norm(backend, weights, names.attention_out_norm);
    mlp_out_norm = norm(backend, weights, names.mlp_out_norm);
  }

  std::shared_ptr<const Norm> norm(Backend& backend, const BlockWeights& weights,
                                   std::string_view module) const {
    const std::string name(module);
    const HostTensor* const bias = names.norm == NormKind::layer ? &weights.at(name + ".bias") : nullptr;
    return std::make_shared<const Norm>(backend, names.norm, config, names.norm_weight_offset,
                                        config.hidden_size, weights.at(name + ".weight"), bias);
  }

  /// A part's input: the residual stream behind its norm, if it has one.
  void read_residual(const std::shared_ptr<const Norm>& before, const Matrix& hidden, const Matrix& x) const {
    if (before) return before->apply(layers.kernels(), hidden, x);
    layers.kernels().convert(hidden, x);
  }

  /// hidden += scale · norm(linear(x))
  void write_residual(std::string_view linear, const std::shared_ptr<const Norm>& behind, const Batch& batch,
                      const Matrix& x, const Matrix& hidden) const {
    if (!behind && config.residual_scale == 1) return layers.apply(linear, batch, x, hidden, true);
    const Matrix y = layers.scratch(BlockSlot::written, hidden.rows, hidden.cols, DType::f32);
    layers.apply(linear, batch, x, y);
    if (behind) behind->apply(layers.kernels(), y, y);
    layers.kernels().add_scaled(y, config.residual_scale, hidden);
  }

  void advance_sequential(std::int64_t step, const Batch& batch, const Matrix& hidden, const Matrix& x,
                          const Matrix& x_next) const {
    switch (step) {
      case 0:
        return attention.attend(layers, batch, attention.project(layers, batch, x), x_next);
      case 1:
        write_residual(names.o, attention_out_norm, batch, x, hidden);
        return read_residual(mlp_norm, hidden, x_next);
      case 2:
        return mlp.activate(layers, mlp.project(layers, batch, x), x_next);
      default:
        return write_residual(names.down, mlp_out_norm, batch, x, hidden);
    }
  }

  /// x_next of the first step, and x of the others: [attention | MLP].
  void advance_parallel(std::int64_t step, const Batch& batch, const Matrix& hidden, const Matrix& x,
                        const Matrix& x_next) const {
    const std::int64_t width = config.hidden_size;
    const std::int64_t queries = x.cols - config.intermediate_size;
    const bool two = config.block_form == BlockForm::parallel_two_norms;
    switch (step) {
      case 0: {
        // All of x is read before any of x_next is written.
        const auto heads = attention.project(layers, batch, x.cols_from(0, width));
        const auto inner = mlp.project(layers, batch, x.cols_from(two ? width : 0, width));
        const std::int64_t attended = x_next.cols - config.intermediate_size;
        attention.attend(layers, batch, heads, x_next.cols_from(0, attended));
        return mlp.activate(layers, inner, x_next.cols_from(attended, config.intermediate_size));
      }
      case 1:
        write_residual(names.o, attention_out_norm, batch, x.cols_from(0, queries), hidden);
        if (x_next.data != x.data) layers.kernels().convert(x, x_next);
        return;
      default:
        return write_residual(names.down, mlp_out_norm, batch, x.cols_from(queries, config.intermediate_size),
                              hidden);
    }
  }
};

DecoderBlock::DecoderBlock(Backend& backend, const ModelWeights& model, const BlockWeights& weights,
                           const DevicePositions& positions, DType compute)
    : state_(std::make_unique<State>(backend, model, weights, positions, compute)) {}

DecoderBlock::DecoderBlock(std::unique_ptr<State> state) : state_(std::move(state)) {}

DecoderBlock::~DecoderBlock() = default;

std::unique_ptr<DecoderBlock> DecoderBlock::copy() const {
  return std::unique_ptr<DecoderBlock>(new DecoderBlock(std::make_unique<State>(*state_)));
}

const BlockLayout& DecoderBlock::layout() const {
  return state_->layout;
}

std::int64_t DecoderBlock::step_width(std::int64_t step) const {
  return layout().steps.at(static_cast<std::size_t>(step)).width;
}

bool DecoderBlock::uses_hidden(std::int64_t step) const {
  return layout().steps.at(static_cast<std::size_t>(step)).writes_residual;
}

void DecoderBlock::enter(const Batch& batch, const Matrix& hidden, const Matrix& x0) {
  GPTQ_EXPECT(hidden.rows == batch.rows() && x0.cols == step_width(0));
  const std::int64_t width = hidden.cols;
  state_->read_residual(state_->attention_norm, hidden, x0.cols_from(0, width));
  if (state_->config.block_form == BlockForm::parallel_two_norms)
    state_->read_residual(state_->mlp_norm, hidden, x0.cols_from(width, width));
}

void DecoderBlock::advance(std::int64_t step, const Batch& batch, const Matrix& hidden, const Matrix& x,
                           const Matrix& x_next) {
  const bool last = step + 1 == steps();
  GPTQ_EXPECT(x.cols == step_width(step) && (last || x_next.cols == step_width(step + 1)));
  if (state_->config.block_form == BlockForm::sequential)
    return state_->advance_sequential(step, batch, hidden, x, x_next);
  state_->advance_parallel(step, batch, hidden, x, x_next);
}

const LinearWeights& DecoderBlock::linear(const std::string& name) const {
  return state_->layers.linear(name);
}

void DecoderBlock::set_linear(const std::string& name, const QuantizedWeights& weight) {
  state_->layers.set_linear(name, weight);
}

void DecoderBlock::forward(const Batch& batch, const Matrix& hidden) {
  const auto room = [&](BlockSlot slot, std::int64_t step) {
    return state_->layers.scratch(slot, hidden.rows, step_width(step));
  };
  Matrix x = room(BlockSlot::input, 0);
  enter(batch, hidden, x);
  for (std::int64_t step = 0; step < steps(); ++step) {
    Matrix next;
    if (step + 1 < steps()) next = room(step % 2 == 0 ? BlockSlot::next_input : BlockSlot::input, step + 1);
    advance(step, batch, hidden, x, next);
    x = next;
  }
}

}  // namespace gptq
