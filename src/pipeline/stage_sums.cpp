#include "pipeline/stage_sums.h"

#include <algorithm>

#include "base/error.h"

namespace gptq {
namespace {

/// Between two rounds a job may be stopped: more rounds mean a shorter way there and more waiting for each
/// other.
constexpr std::int64_t kMostRounds = 8;

/// Of the backend's scratch memory; DecoderBlock has the lower ones.
enum Slot : int { kWeighed = 16, kDifference };

Matrix room(Backend& backend, int slot, DType dtype, std::int64_t rows, std::int64_t cols) {
  const std::size_t bytes = static_cast<std::size_t>(rows * cols) * size_of(dtype);
  return {backend.scratch(slot, bytes), dtype, rows, cols, cols};
}

/// Of columns that a visit brings together.
std::vector<float> maximum_of(Backend& backend, std::int64_t width,
                              const std::function<void(float* maximum)>& visit) {
  const std::size_t bytes = static_cast<std::size_t>(width) * sizeof(float);
  const DeviceBuffer maximum = backend.allocate(bytes);
  backend.set_zero(maximum.data(), bytes);
  visit(maximum.as<float>());
  std::vector<float> values(static_cast<std::size_t>(width));
  backend.download(values.data(), maximum.data(), bytes);
  return values;
}

/// Positions of this rank's chunks that nobody has summed yet.
std::vector<std::size_t> chunks_to_sum(const Activations& activations,
                                       const std::vector<std::int64_t>& done) {
  std::vector<std::size_t> unsummed;
  for (std::size_t i = 0; i < activations.chunks(); ++i) {
    const Chunk& chunk = activations.chunk(i);
    if (!chunk.held_out && std::find(done.begin(), done.end(), chunk.index) == done.end())
      unsummed.push_back(i);
  }
  return unsummed;
}

}  // namespace

StageSummer::StageSummer(Backend& backend, Communicator& comm, DeviceCollectives& device_comm,
                         std::int64_t total_tokens, float norm_eps, PhaseClock& phases)
    : backend_(backend),
      comm_(comm),
      device_comm_(device_comm),
      total_tokens_(total_tokens),
      norm_eps_(norm_eps),
      phases_(phases) {}

Matrix StageSummer::weighed(int slot, const StageInput& input, const Matrix& hidden, const Matrix& x) {
  if (!input.weighted) return x;
  const Matrix y = room(backend_, slot, x.dtype, x.rows, x.cols);
  backend_.kernels().weigh_rows(hidden, norm_eps_, x, y);
  return y;
}

/// Takes the chunks' rows through a step, weighed if asked for.
void StageSummer::visit(const StageInput& input, const std::vector<std::size_t>& positions,
                        const OnRows& step) {
  Activations::Use use;
  use.x_width = input.step_width;
  if (input.weighted) use.hidden = Activations::Use::read;
  input.activations.visit(positions, use,
                          [&](std::size_t, const Matrix& hidden, const Matrix& x, const Matrix&) {
                            step(weighed(kWeighed, input, hidden, input.of(x)));
                          });
}

/// D: towards the layer's output the difference of the inputs; towards the residual stream the output that
/// would lead from the quantized stream in front of the layer to the full-precision one behind it.
Matrix StageSummer::difference(const StageInput& input, const Matrix& hidden, const Matrix& x,
                               const Matrix& reference_hidden, const Matrix& reference_x) {
  const bool residual = input.target == CorrectionTarget::residual;
  const Matrix d = room(backend_, kDifference, x.dtype, x.rows, residual ? hidden.cols : x.cols);
  if (residual) {
    backend_.kernels().subtract(reference_hidden, hidden, input.bias, d);
  } else {
    backend_.kernels().subtract(reference_x, x, {}, d);
  }
  return d;
}

/// Takes the chunks' x and D through a step, both weighed if asked for.
void StageSummer::visit_both(const StageInput& input, const std::vector<std::size_t>& positions,
                             const OnBothRows& step) {
  const bool residual = input.target == CorrectionTarget::residual;
  Activations::Use use, reference_use;
  use.x_width = input.step_width;
  if (input.weighted || residual) use.hidden = Activations::Use::read;
  if (residual) {
    reference_use.hidden = Activations::Use::read;
  } else {
    reference_use.x_width = input.step_width;
  }
  input.activations.visit(
      positions, use, [&](std::size_t i, const Matrix& hidden, const Matrix& of_step, const Matrix&) {
        const Matrix x = input.of(of_step);
        input.reference->visit(
            {i}, reference_use,
            [&](std::size_t, const Matrix& reference_hidden, const Matrix& reference_of_step, const Matrix&) {
              const Matrix reference_x = residual ? Matrix() : input.of(reference_of_step);
              const Matrix d = difference(input, hidden, x, reference_hidden, reference_x);
              if (input.weighted) backend_.kernels().weigh_rows(hidden, norm_eps_, d, d);
              step(weighed(kWeighed, input, hidden, x), d);
            });
      });
}

/// The maximum of what is summed, where that is not what the forward pass has seen.
void StageSummer::weigh_maximum(StageInput& input) {
  input.maximum = maximum_of(backend_, input.width, [&](float* maximum) {
    visit(input, chunks_to_sum(input.activations, {}),
          [&](const Matrix& x) { backend_.kernels().column_max(x, maximum); });
  });
}

/// What this rank's D does not exceed.
std::vector<float> StageSummer::difference_bound(const StageInput& input) {
  if (input.target == CorrectionTarget::output && !input.weighted) {
    std::vector<float> bound(input.maximum.size());
    std::transform(input.maximum.begin(), input.maximum.end(), input.reference_maximum.begin(), bound.begin(),
                   std::plus<>());
    return bound;
  }
  const bool residual = input.target == CorrectionTarget::residual;
  return maximum_of(backend_, residual ? input.activations.hidden_size() : input.width, [&](float* maximum) {
    visit_both(input, chunks_to_sum(input.activations, {}),
               [&](const Matrix&, const Matrix& d) { backend_.kernels().column_max(d, maximum); });
  });
}

/// Sums of nothing, or what `before` has of this rank's part.
StageSums StageSummer::start(StageInput& input, PartialSum& before) {
  StageSums sums;
  std::vector<float> bound;
  {
    const auto scope = phases_.in("hessian");
    if (input.weighted) weigh_maximum(input);
    if (input.corrected) bound = difference_bound(input);
  }
  {
    const auto scope = phases_.in("reduce");
    comm_.all_reduce_max(input.maximum);
    if (input.corrected) comm_.all_reduce_max(bound);
  }
  sums.hessian = make_hessian_sum(backend_, input.maximum, total_tokens_);
  if (input.corrected) sums.cross = make_cross_sum(backend_, input.target, bound, input.width, total_tokens_);
  if (!before.panels.empty()) {
    GPTQ_EXPECT(before.panels.size() == sums.hessian.count() && before.cross.size() == sums.cross.count());
    backend_.upload(sums.hessian.values(), before.panels.data(), sums.hessian.panels.size());
    if (sums.cross.rows > 0) backend_.upload(sums.cross.values(), before.cross.data(), sums.cross.sum.size());
    before.panels = {};
    before.cross = {};
  }
  return sums;
}

std::int64_t rounds_of_sum(std::int64_t most_chunks) {
  // The last round is where the reduction starts: there is one even where nothing is left to be summed.
  return std::clamp(most_chunks, std::int64_t{1}, kMostRounds);
}

StageSums StageSummer::accumulate(StageInput input, PartialSum before, const OnRound& on_round) {
  const std::vector<std::size_t> unsummed = chunks_to_sum(input.activations, before.done_anywhere);
  std::vector<std::int64_t> rounds{rounds_of_sum(static_cast<std::int64_t>(unsummed.size()))};
  {
    const auto scope = phases_.in("reduce");
    comm_.all_reduce_max(rounds);
  }
  StageSums sums = start(input, before);
  const std::vector<PanelRange> ranges = backend_.kernels().hessian_ranges(input.width);
  // The order of the collectives must be the same on all ranks, wherever their activations lie.
  const bool overlapped = comm_.size() > 1 && ranges.size() > 1 && device_comm_.overlaps();
  for (std::int64_t round = 0; round < rounds[0]; ++round) {
    if (round > 0) on_round(sums, before.chunks);
    const auto scope = phases_.in("hessian");
    const auto bound = [&](std::int64_t r) {
      return unsummed.begin() + static_cast<std::int64_t>(unsummed.size()) * r / rounds[0];
    };
    const std::vector<std::size_t> positions(bound(round), bound(round + 1));
    const bool reduces = overlapped && round + 1 == rounds[0];
    if (sums.cross.rows > 0) add_cross(input, positions, sums);
    if (sums.cross.rows > 0 && reduces) device_comm_.start_sum(sums.cross.values(), sums.cross.count());
    // Chunks that have to be copied to the device pass through it once.
    const std::size_t together = reduces && input.activations.resident() ? 1 : ranges.size();
    for (std::size_t first = 0; first < ranges.size(); first += together) {
      const std::span pass = std::span(ranges).subspan(first, together);
      add_chunks(input, positions, pass, sums);
      if (reduces) start_sums(pass, sums.hessian);
    }
    for (const std::size_t i : positions) before.chunks.push_back(input.activations.chunk(i).index);
  }
  finish(overlapped, sums);
  return sums;
}

void StageSummer::finish(bool overlapped, const StageSums& sums) {
  const auto scope = phases_.in("reduce");
  if (overlapped) {
    device_comm_.join();
  } else {
    device_comm_.all_reduce_sum(sums.hessian.values(), sums.hessian.count());
    if (sums.cross.rows > 0) device_comm_.all_reduce_sum(sums.cross.values(), sums.cross.count());
  }
  device_comm_.wait();
}

void StageSummer::add_chunks(const StageInput& input, const std::vector<std::size_t>& positions,
                             std::span<const PanelRange> ranges, const StageSums& sums) {
  visit(input, positions, [&](const Matrix& x) {
    for (const PanelRange& range : ranges)
      backend_.kernels().accumulate_hessian(x, sums.hessian.exponents, range, sums.hessian.values());
  });
}

void StageSummer::add_cross(const StageInput& input, const std::vector<std::size_t>& positions,
                            const StageSums& sums) {
  visit_both(input, positions, [&](const Matrix& x, const Matrix& d) {
    backend_.kernels().accumulate_cross(d, sums.cross.d_exponents, x, sums.hessian.exponents,
                                        sums.cross.values());
  });
}

void StageSummer::start_sums(std::span<const PanelRange> ranges, const HessianSum& sum) {
  for (const PanelRange& range : ranges) {
    device_comm_.start_sum(sum.values() + TriangularPanels::offset(sum.n, range.first),
                           static_cast<std::size_t>(TriangularPanels::size(sum.n, range)));
  }
}

}  // namespace gptq
