#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/weights.h"

namespace gptq {

/// A whole model applied to one batch of token ids, block after block (one block in memory at a time). For
/// small inputs: tests, and looking at a model; `eval` walks the blocks itself to share them among its
/// samples. ids: batch.rows() ids within the vocabulary.

/// (rows, hidden) after the final norm, in the compute type.
HostTensor final_states(Backend& backend, const ModelWeights& model, const Batch& batch,
                        std::span<const std::int32_t> ids, DType compute);
/// (rows, vocab) floats, in the form that the model gives them (LogitForm).
HostTensor logits(Backend& backend, const ModelWeights& model, const Batch& batch,
                  std::span<const std::int32_t> ids, DType compute);
/// −log p of each token's successor; 0 for the last token of a sample.
std::vector<double> token_losses(Backend& backend, const ModelWeights& model, const Batch& batch,
                                 std::span<const std::int32_t> ids, DType compute);

}  // namespace gptq
