#include "pipeline/reference_pass.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "pipeline/block_stream.h"

namespace gptq {
namespace {

/// Of the backend's scratch memory: an input as it was before it was weighed. DecoderBlock, StageSummer and
/// HeldOutJudge have others.
constexpr int kUnweighed = 21;

DeviceBuffer zeros(Backend& backend, std::int64_t width) {
  DeviceBuffer buffer = backend.allocate(static_cast<std::size_t>(width) * sizeof(float));
  backend.set_zero(buffer.data(), buffer.size());
  return buffer;
}

}  // namespace

ReferencePass::ReferencePass(Backend& backend, std::int64_t block_index, DecoderBlock& block,
                             Activations& stream, KeptInputs& kept, bool weighs, float norm_eps)
    : backend_(backend),
      block_index_(block_index),
      block_(block),
      stream_(stream),
      kept_(kept),
      weighs_(weighs),
      norm_eps_(norm_eps) {
  for (std::int64_t step = 0; step < block.steps(); ++step) {
    seen_.push_back(zeros(backend, block.step_width(step)));
    summed_.push_back(zeros(backend, block.step_width(step)));
  }
}

/// The room of all steps' inputs of a chunk at once.
void ReferencePass::with_inputs(std::size_t chunk, std::vector<Matrix>& inputs, const OnInputs& use) {
  const auto step = static_cast<std::int64_t>(inputs.size());
  if (step == block_.steps()) return use(inputs);
  Activations::Use writes;
  writes.next_width = block_.step_width(step);
  kept_.of(step).visit({chunk}, writes, [&](std::size_t, const Matrix&, const Matrix&, const Matrix& room) {
    inputs.push_back(room);
    with_inputs(chunk, inputs, use);
  });
}

/// What the block goes on with; what is kept in its place may be weighed.
Matrix ReferencePass::keep(std::int64_t step, std::size_t chunk, const Matrix& hidden, const Matrix& x) {
  const auto at = static_cast<std::size_t>(step);
  backend_.kernels().column_max(x, seen_[at].as<float>());
  if (!weighs_ || !block_.layout().steps[at].writes_residual || stream_.chunk(chunk).held_out) return x;
  const std::size_t bytes = static_cast<std::size_t>(x.rows * x.cols) * size_of(x.dtype);
  const Matrix unweighed{backend_.scratch(kUnweighed, bytes), x.dtype, x.rows, x.cols, x.cols};
  GPTQ_EXPECT(x.stride == x.cols);
  backend_.copy(unweighed.data, x.data, bytes);
  backend_.kernels().weigh_rows(hidden, norm_eps_, unweighed, x);
  backend_.kernels().column_max(x, summed_[at].as<float>());
  return unweighed;
}

void ReferencePass::pass(std::size_t chunk, const Matrix& hidden, const std::vector<Matrix>& inputs) {
  const Batch& batch = stream_.batch(chunk);
  block_.enter(batch, hidden, inputs[0]);
  for (std::size_t step = 0; step < inputs.size(); ++step) {
    const auto number = static_cast<std::int64_t>(step);
    const Matrix x = keep(number, chunk, hidden, inputs[step]);
    block_.advance(number, batch, hidden, x, step + 1 < inputs.size() ? inputs[step + 1] : Matrix());
  }
}

void ReferencePass::run() {
  Activations::Use use;
  use.hidden = Activations::Use::updated;
  stream_.visit(use, [&](std::size_t chunk, const Matrix& hidden, const Matrix&, const Matrix&) {
    std::vector<Matrix> inputs;
    with_inputs(chunk, inputs, [&](const std::vector<Matrix>& all) { pass(chunk, hidden, all); });
  });
}

std::vector<float> ReferencePass::downloaded(const DeviceBuffer& maximum) const {
  std::vector<float> values(maximum.size() / sizeof(float));
  backend_.download(values.data(), maximum.data(), maximum.size());
  return values;
}

std::vector<std::vector<float>> ReferencePass::maxima() {
  std::vector<std::vector<float>> all;
  for (std::int64_t step = 0; step < block_.steps(); ++step) {
    const auto at = static_cast<std::size_t>(step);
    std::vector<float> seen = downloaded(seen_[at]);
    if (!std::all_of(seen.begin(), seen.end(), [](float value) { return std::isfinite(value); }))
      blame_a_sample(backend_, block_.layout(), block_index_, step, kept_.of(step));
    const bool weighed = weighs_ && block_.layout().steps[at].writes_residual;
    all.push_back(weighed ? downloaded(summed_[at]) : std::move(seen));
  }
  return all;
}

}  // namespace gptq
