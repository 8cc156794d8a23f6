#include "pipeline/block_stream.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace gptq {

namespace {

/// Of the one whose columns are not finite; x may hold inputs of later steps already.
std::string name_of_group(Backend& backend, const BlockLayout& layout, std::int64_t step, const Matrix& x) {
  const std::vector<BlockStep>& steps = layout.steps;
  for (auto s = static_cast<std::size_t>(step); s < steps.size() && steps[s].width == x.cols; ++s) {
    for (const StageGroup& group : steps[s].groups) {
      if (!backend.kernels().all_finite(x.cols_from(group.first_column, group.in_features)))
        return group.name;
    }
  }
  contract_violation("every column belongs to a group", __FILE__, __LINE__);
}

}  // namespace

void blame_a_sample(Backend& backend, const BlockLayout& layout, std::int64_t block_index, std::int64_t step,
                    Activations& activations) {
  Activations::Use use;
  use.x_width = layout.steps.at(static_cast<std::size_t>(step)).width;
  activations.visit(use, [&](std::size_t chunk, const Matrix&, const Matrix& x, const Matrix&) {
    const Batch& batch = activations.batch(chunk);
    for (std::int64_t s = 0; s < batch.samples(); ++s) {
      const std::int64_t first = batch.offsets[static_cast<std::size_t>(s)];
      const std::int64_t rows = batch.offsets[static_cast<std::size_t>(s) + 1] - first;
      if (backend.kernels().all_finite(x.rows_from(first, rows))) continue;
      throw NumericalError(
          "NaN or infinity in the activations: block {}, input of stage group {}, calibration sample {}. "
          "Look at that "
          "sample's text and at the weights of the blocks before; with compute.dtype bf16, try fp32.",
          block_index, name_of_group(backend, layout, step, x.rows_from(first, rows)),
          activations.chunk(chunk).first_sample + s);
    }
  });
  contract_violation("a non-finite column maximum comes from one of the samples", __FILE__, __LINE__);
}

BlockStream::BlockStream(Backend& backend, PhaseClock& phases, const char* phase, std::int64_t block_index,
                         DecoderBlock& block, Activations& activations)
    : backend_(backend),
      phases_(phases),
      phase_(phase),
      block_index_(block_index),
      block_(block),
      activations_(activations) {}

DeviceBuffer BlockStream::zeros(std::int64_t width) {
  DeviceBuffer buffer = backend_.allocate(static_cast<std::size_t>(width) * sizeof(float));
  backend_.set_zero(buffer.data(), buffer.size());
  return buffer;
}

/// The maximum on the host, once it is known to be finite.
std::vector<float> BlockStream::finite_maximum(const DeviceBuffer& maximum, std::int64_t step) {
  std::vector<float> values(maximum.size() / sizeof(float));
  backend_.download(values.data(), maximum.data(), maximum.size());
  const bool finite =
      std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
  if (!finite) blame_a_sample(backend_, block_.layout(), block_index_, step, activations_);
  return values;
}

std::vector<float> BlockStream::enter() {
  const auto scope = phases_.in(phase_);
  Activations::Use use;
  use.hidden = Activations::Use::read;
  use.next_width = block_.step_width(0);
  const DeviceBuffer maximum = zeros(use.next_width);
  activations_.visit(use, [&](std::size_t i, const Matrix& hidden, const Matrix&, const Matrix& next) {
    block_.enter(activations_.batch(i), hidden, next);
    backend_.kernels().column_max(next, maximum.as<float>());
  });
  return finite_maximum(maximum, 0);
}

std::vector<float> BlockStream::advance(std::int64_t step) {
  const auto scope = phases_.in(phase_);
  const bool last = step + 1 == block_.steps();
  Activations::Use use;
  use.hidden = block_.uses_hidden(step) ? Activations::Use::updated : Activations::Use::ignored;
  use.x_width = block_.step_width(step);
  use.next_width = last ? 0 : block_.step_width(step + 1);
  const DeviceBuffer maximum = zeros(use.next_width);
  activations_.visit(use, [&](std::size_t i, const Matrix& hidden, const Matrix& x, const Matrix& next) {
    block_.advance(step, activations_.batch(i), hidden, x, next);
    if (!last) backend_.kernels().column_max(next, maximum.as<float>());
  });
  return last ? std::vector<float>() : finite_maximum(maximum, step + 1);
}

std::vector<float> BlockStream::column_maximum(std::int64_t step) {
  const auto scope = phases_.in(phase_);
  Activations::Use use;
  use.x_width = block_.step_width(step);
  const DeviceBuffer maximum = zeros(use.x_width);
  activations_.visit(use, [&](std::size_t, const Matrix&, const Matrix& x, const Matrix&) {
    backend_.kernels().column_max(x, maximum.as<float>());
  });
  return finite_maximum(maximum, step);
}

}  // namespace gptq
