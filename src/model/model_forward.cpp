#include "model/model_forward.h"

#include <algorithm>

#include "backend/device_matrix.h"
#include "base/error.h"
#include "model/decoder_block.h"

namespace gptq {
namespace {

/// (rows, hidden) after the final norm, in the compute type and the backend's memory.
DeviceMatrix states_of(Backend& backend, const ModelWeights& model, const Batch& batch,
                       std::span<const std::int32_t> ids, DType compute) {
  GPTQ_EXPECT(static_cast<std::int64_t>(ids.size()) == batch.rows());
  const DeviceMatrix hidden(backend, DType::f32, batch.rows(), model.config().hidden_size);
  const HostTensor table = model.load_embedding();
  backend.kernels().embed(ids, DeviceMatrix::view_or_copy(backend, table).matrix(), hidden.matrix());

  std::int64_t longest = 0;
  for (std::int64_t s = 0; s < batch.samples(); ++s) {
    longest = std::max(longest, batch.offsets[s + 1] - batch.offsets[s]);
  }
  const DeviceRotary rotary(backend, make_rotary_angles(model.config(), longest));
  for (std::int64_t index = 0; index < model.config().num_hidden_layers; ++index) {
    const BlockWeights weights = model.load_block(index);
    DecoderBlock(backend, model, weights, rotary, compute).forward(batch, hidden.matrix());
  }
  DeviceMatrix result(backend, compute, batch.rows(), model.config().hidden_size);
  const DeviceMatrix norm(backend, convert(model.load_final_norm(), DType::f32));
  backend.kernels().rms_norm(hidden.matrix(), norm.floats(), model.config().rms_norm_eps,
                             model.architecture().norm_weight_offset, result.matrix());
  return result;
}

}  // namespace

HostTensor final_states(Backend& backend, const ModelWeights& model, const Batch& batch,
                        std::span<const std::int32_t> ids, DType compute) {
  return states_of(backend, model, batch, ids, compute).to_host(backend);
}

HostTensor logits(Backend& backend, const ModelWeights& model, const Batch& batch,
                  std::span<const std::int32_t> ids, DType compute) {
  const DeviceMatrix states = states_of(backend, model, batch, ids, compute);
  const auto head = backend.kernels().prepare_linear(model.load_head().matrix(), {}, compute);
  const DeviceMatrix result(backend, DType::f32, batch.rows(), model.config().vocab_size);
  backend.kernels().linear(batch, states.matrix(), *head, result.matrix(), false);
  return result.to_host(backend);
}

std::vector<double> token_losses(Backend& backend, const ModelWeights& model, const Batch& batch,
                                 std::span<const std::int32_t> ids, DType compute) {
  const DeviceMatrix states = states_of(backend, model, batch, ids, compute);
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
