#include "model/model_forward.h"

#include <algorithm>
#include <cmath>

#include "backend/device_matrix.h"
#include "base/error.h"
#include "model/decoder_block.h"
#include "model/model_ends.h"

namespace gptq {
namespace {

/// (rows, hidden) after the final norm, in the compute type and the backend's memory.
DeviceMatrix states_of(Backend& backend, const ModelWeights& model, const Batch& batch,
                       std::span<const std::int32_t> ids, DType compute) {
  GPTQ_EXPECT(static_cast<std::int64_t>(ids.size()) == batch.rows());
  const DeviceMatrix hidden(backend, DType::f32, batch.rows(), model.config().hidden_size);
  TokenEmbedding(backend, model).run(batch, ids, hidden.matrix());

  std::int64_t longest = 0;
  for (std::int64_t s = 0; s < batch.samples(); ++s) {
    longest = std::max(longest, batch.offsets[s + 1] - batch.offsets[s]);
  }
  const DevicePositions positions(backend, model.config(), longest);
  for (std::int64_t index = 0; index < model.config().num_hidden_layers; ++index) {
    const BlockWeights weights = model.load_block(index);
    DecoderBlock(backend, model, weights, positions, compute).forward(batch, hidden.matrix());
  }
  DeviceMatrix result(backend, compute, batch.rows(), model.config().hidden_size);
  FinalNorm(backend, model).run(hidden.matrix(), result.matrix());
  return result;
}

void shape_logits(const LogitForm& form, HostTensor& logits) {
  if (form.is_plain()) return;
  auto* const values = reinterpret_cast<float*>(logits.storage.data());
  for (std::int64_t i = 0; i < logits.elements(); ++i) {
    values[i] *= form.scale;
    if (form.cap > 0) values[i] = form.cap * std::tanh(values[i] / form.cap);
  }
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
  HostTensor host = result.to_host(backend);
  shape_logits(model.config().logits, host);
  return host;
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
  backend.kernels().cross_entropy(batch, states.matrix(), *head, targets, losses, model.config().logits);
  return losses;
}

}  // namespace gptq
