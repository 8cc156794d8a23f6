#include "pipeline/window_losses.h"

#include <cmath>
#include <limits>

namespace gptq {
namespace {

/// Each token's successor in its window; −1 for a window's last token.
std::vector<std::int32_t> targets_of(const Batch& batch, const std::vector<std::int32_t>& ids) {
  std::vector<std::int32_t> targets(ids.size());
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) targets[i] = ids[i + 1];
  for (std::size_t s = 1; s < batch.offsets.size(); ++s)
    targets[static_cast<std::size_t>(batch.offsets[s] - 1)] = -1;
  return targets;
}

WindowLoss window_loss(const std::vector<double>& losses, std::int64_t first, std::int64_t end) {
  WindowLoss window;
  for (std::int64_t row = first; row + 1 < end; ++row) {
    window.loss += losses[static_cast<std::size_t>(row)];
    window.predictions += 1;
  }
  return window;
}

std::unique_ptr<LinearWeights> prepared_head(const ModelWeights& model, Backend& backend, DType compute,
                                             const QuantizedLayer* head) {
  if (head != nullptr) return backend.kernels().prepare_quantized(weights_of(*head), {}, compute);
  return backend.kernels().prepare_linear(model.load_head().matrix(), {}, compute);
}

}  // namespace

std::int64_t predictions_of(const std::vector<WindowLoss>& windows) {
  std::int64_t predictions = 0;
  for (const WindowLoss& window : windows) predictions += window.predictions;
  return predictions;
}

double perplexity_of(const std::vector<WindowLoss>& windows) {
  double loss = 0;
  for (const WindowLoss& window : windows) loss += window.loss;
  const std::int64_t predictions = predictions_of(windows);
  if (predictions == 0) return std::numeric_limits<double>::quiet_NaN();
  return std::exp(loss / static_cast<double>(predictions));
}

LossHead::LossHead(const ModelWeights& model, Backend& backend, DType compute, const QuantizedLayer* head)
    : model_(model),
      backend_(backend),
      compute_(compute),
      norm_(backend, model),
      head_(prepared_head(model, backend, compute, head)) {}

std::vector<WindowLoss> LossHead::losses(const Batch& batch, const Matrix& hidden,
                                         const std::vector<std::int32_t>& ids) const {
  const DeviceMatrix x(backend_, compute_, batch.rows(), model_.config().hidden_size);
  norm_.run(hidden, x.matrix());
  std::vector<double> rows(static_cast<std::size_t>(batch.rows()));
  backend_.kernels().cross_entropy(batch, x.matrix(), *head_, targets_of(batch, ids), rows,
                                   model_.config().logits);
  std::vector<WindowLoss> windows;
  for (std::size_t s = 0; s + 1 < batch.offsets.size(); ++s)
    windows.push_back(window_loss(rows, batch.offsets[s], batch.offsets[s + 1]));
  return windows;
}

}  // namespace gptq
