#include "pipeline/end_to_end.h"

#include "base/error.h"
#include "pipeline/gather.h"

namespace gptq {
namespace {

/// Positions of the stream's held-out chunks.
std::vector<std::size_t> held_out_chunks(const Activations& stream) {
  std::vector<std::size_t> chunks;
  for (std::size_t i = 0; i < stream.chunks(); ++i) {
    if (stream.chunk(i).held_out) chunks.push_back(i);
  }
  return chunks;
}

}  // namespace

EndToEnd::EndToEnd(const ModelWeights& model, const CalibrationData& data, Backend& backend,
                   Communicator& comm, Activations& quantized, Activations& reference, PhaseClock& phases)
    : model_(model),
      data_(data),
      backend_(backend),
      comm_(comm),
      quantized_(quantized),
      reference_(reference),
      phases_(phases) {}

std::vector<WindowLoss> EndToEnd::losses(Activations& stream, const QuantizedLayer* head) {
  std::vector<WindowLoss> mine;
  const std::vector<std::size_t> chunks = held_out_chunks(stream);
  if (!chunks.empty()) {  // else the head need not be read
    const LossHead loss_head(model_, backend_, stream.compute(), head);
    Activations::Use use;
    use.hidden = Activations::Use::read;
    stream.visit(chunks, use, [&](std::size_t i, const Matrix& hidden, const Matrix&, const Matrix&) {
      const auto of_chunk = loss_head.losses(stream.batch(i), hidden, stream.ids(i, data_));
      mine.insert(mine.end(), of_chunk.begin(), of_chunk.end());
    });
  }
  return gather_in_order(mine, comm_);
}

std::vector<EndToEnd::Sums> EndToEnd::errors() {
  const std::vector<std::size_t> chunks = held_out_chunks(quantized_);
  const std::vector<std::size_t> partners = held_out_chunks(reference_);
  GPTQ_EXPECT(chunks.size() == partners.size());
  std::vector<Sums> mine;
  Activations::Use use;
  use.hidden = Activations::Use::read;
  std::size_t turn = 0;
  quantized_.visit(chunks, use, [&](std::size_t i, const Matrix& given, const Matrix&, const Matrix&) {
    const std::size_t partner = partners[turn++];
    const Batch& batch = quantized_.batch(i);
    GPTQ_EXPECT(quantized_.chunk(i).index == reference_.chunk(partner).index);
    std::vector<double> error(static_cast<std::size_t>(batch.samples())), norm(error.size());
    reference_.visit({partner}, use, [&](std::size_t, const Matrix& wanted, const Matrix&, const Matrix&) {
      backend_.kernels().squared_error(batch, wanted, given, error, norm);
    });
    for (std::size_t s = 0; s < error.size(); ++s) mine.push_back({error[s], norm[s]});
  });
  return gather_in_order(mine, comm_);
}

HeldOutFigures EndToEnd::measure(const QuantizedLayer* head) {
  const auto scope = phases_.in("held out");
  HeldOutFigures figures;
  const std::vector<WindowLoss> windows = losses(quantized_, head);
  figures.samples = static_cast<std::int64_t>(windows.size());
  figures.predictions = predictions_of(windows);
  figures.perplexity = perplexity_of(windows);
  figures.source_perplexity = perplexity_of(losses(reference_, nullptr));
  Sums all;
  for (const Sums& sums : errors()) {
    all.error += sums.error;
    all.norm += sums.norm;
  }
  figures.relative_hidden_error = all.norm > 0 ? all.error / all.norm : 0;
  const std::size_t first = data_.samples.size() - windows.size();
  for (std::size_t s = first; s < data_.samples.size(); ++s)
    figures.tokens += static_cast<std::int64_t>(data_.samples[s].size());
  return figures;
}

}  // namespace gptq
