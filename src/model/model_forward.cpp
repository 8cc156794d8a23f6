#include "model/model_forward.h"

#include <algorithm>

#include "base/error.h"
#include "model/decoder_block.h"

namespace gptq {
namespace {

void normalise(Backend& backend, const ModelWeights& model, const Matrix& hidden, const Matrix& out) {
  const HostTensor weight = convert(model.load_final_norm(), DType::f32);
  const auto* const values = reinterpret_cast<const float*>(weight.storage.data());
  backend.kernels().rms_norm(hidden, {values, static_cast<std::size_t>(weight.elements())},
                             model.config().rms_norm_eps, model.architecture().norm_weight_offset, out);
}

}  // namespace

HostTensor final_states(Backend& backend, const ModelWeights& model, const Batch& batch,
                        std::span<const std::int32_t> ids, DType compute) {
  GPTQ_EXPECT(static_cast<std::int64_t>(ids.size()) == batch.rows());
  const HostTensor hidden = make_tensor(DType::f32, {batch.rows(), model.config().hidden_size});
  backend.kernels().embed(ids, model.load_embedding().matrix(), hidden.matrix());

  std::int64_t longest = 0;
  for (std::int64_t s = 0; s < batch.samples(); ++s) {
    longest = std::max(longest, batch.offsets[s + 1] - batch.offsets[s]);
  }
  const RotaryTable rotary = make_rotary_table(model.config(), longest);
  for (std::int64_t index = 0; index < model.config().num_hidden_layers; ++index) {
    const BlockWeights weights = model.load_block(index);
    DecoderBlock(backend, model, weights, rotary, compute).forward(batch, hidden.matrix());
  }
  HostTensor result = make_tensor(compute, hidden.shape);
  normalise(backend, model, hidden.matrix(), result.matrix());
  return result;
}

HostTensor logits(Backend& backend, const ModelWeights& model, const Batch& batch,
                  std::span<const std::int32_t> ids, DType compute) {
  const HostTensor states = final_states(backend, model, batch, ids, compute);
  const auto head = backend.kernels().prepare_linear(model.load_head().matrix(), {}, compute);
  HostTensor result = make_tensor(DType::f32, {batch.rows(), model.config().vocab_size});
  backend.kernels().linear(batch, states.matrix(), *head, result.matrix(), false);
  return result;
}

std::vector<double> token_losses(Backend& backend, const ModelWeights& model, const Batch& batch,
                                 std::span<const std::int32_t> ids, DType compute) {
  const HostTensor states = final_states(backend, model, batch, ids, compute);
  const auto head = backend.kernels().prepare_linear(model.load_head().matrix(), {}, compute);
  std::vector<std::int32_t> targets(ids.begin(), ids.end());
  std::rotate(targets.begin(), targets.begin() + (targets.empty() ? 0 : 1), targets.end());
  for (std::int64_t s = 0; s < batch.samples(); ++s) {
    if (batch.offsets[s + 1] > batch.offsets[s])
      targets[static_cast<std::size_t>(batch.offsets[s + 1] - 1)] = -1;
  }
  std::vector<double> losses(ids.size());
  backend.kernels().cross_entropy(batch, states.matrix(), *head, targets, losses);
  return losses;
}

}  // namespace gptq
