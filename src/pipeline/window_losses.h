#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "model/model_ends.h"
#include "quant/quantized_layer.h"

namespace gptq {

/// Negative log-likelihood summed over one window of tokens, and its number of predictions: every token but
/// the first is predicted from those before it.
struct WindowLoss {
  double loss = 0;
  std::int64_t predictions = 0;
};

/// exp(mean loss of a prediction) of windows added in this order; NaN where nothing is predicted.
double perplexity_of(const std::vector<WindowLoss>& windows);
std::int64_t predictions_of(const std::vector<WindowLoss>& windows);

/// A model's final norm and head, which make losses of what leaves the last block.
class LossHead {
 public:
  /// head: the quantized one that takes the place of the model's own; null: that one. Borrows model and
  /// backend.
  LossHead(const ModelWeights& model, Backend& backend, DType compute, const QuantizedLayer* head = nullptr);

  /// hidden: (batch.rows(), hidden_size) f32, in the backend's memory; ids: the rows' tokens. A loss a sample
  /// of the batch, each independent of the others.
  std::vector<WindowLoss> losses(const Batch& batch, const Matrix& hidden,
                                 const std::vector<std::int32_t>& ids) const;

 private:
  const ModelWeights& model_;
  Backend& backend_;
  DType compute_;
  FinalNorm norm_;
  std::unique_ptr<LinearWeights> head_;
};

}  // namespace gptq
