#include "pipeline/kept_inputs.h"

#include <algorithm>

namespace gptq {

KeptInputs::KeptInputs(Backend& backend, const CalibrationData& data, const std::vector<Chunk>& chunks,
                       DType compute, const std::vector<const BlockLayout*>& layouts,
                       const Activations::Room& room) {
  std::vector<std::int64_t> widths;
  for (const BlockLayout* layout : layouts) {
    widths.resize(std::max(widths.size(), layout->steps.size()));
    for (std::size_t step = 0; step < layout->steps.size(); ++step)
      widths[step] = std::max(widths[step], layout->steps[step].width);
  }
  for (const std::int64_t width : widths)
    steps_.push_back(std::make_unique<Activations>(backend, data, chunks, 0, width, compute, room));
}

void KeptInputs::on_chunk(const Activations::OnChunk& before, const Activations::OnChunk& after) {
  for (const auto& step : steps_) step->on_chunk(before, after);
}

}  // namespace gptq
