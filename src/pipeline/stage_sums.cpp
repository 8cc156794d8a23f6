#include "pipeline/stage_sums.h"

#include <algorithm>

#include "base/error.h"

namespace gptq {
namespace {

/// Between two rounds a job may be stopped: more rounds mean a shorter way there and more waiting for each
/// other.
constexpr std::int64_t kMostRounds = 8;

/// Of the backend's scratch memory; DecoderBlock has the lower ones.
enum Slot : int { kWeighed = 16, kWeighedReference, kDifference };

Matrix like(Backend& backend, int slot, const Matrix& x) {
  const std::size_t bytes = static_cast<std::size_t>(x.rows * x.cols) * size_of(x.dtype);
  return {backend.scratch(slot, bytes), x.dtype, x.rows, x.cols, x.cols};
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
                         std::int64_t total_tokens, std::int64_t cross_tokens, float norm_eps,
                         PhaseClock& phases)
    : backend_(backend),
      comm_(comm),
      device_comm_(device_comm),
      total_tokens_(total_tokens),
      cross_tokens_(cross_tokens),
      norm_eps_(norm_eps),
      phases_(phases) {}

Matrix StageSummer::weighed(int slot, const StageInput& input, const Matrix& hidden, const Matrix& x) {
  if (!input.weighted) return x;
  const Matrix y = like(backend_, slot, x);
  backend_.kernels().weigh_rows(hidden, norm_eps_, x, y);
  return y;
}

/// Takes the chunks' rows through a step, weighed if asked for.
void StageSummer::visit(const StageInput& input, const std::vector<std::size_t>& positions,
                        const OnRows& step) {
  Activations::Use use;
  use.x_width = input.width;
  if (input.weighted) use.hidden = Activations::Use::read;
  input.activations.visit(positions, use,
                          [&](std::size_t, const Matrix& hidden, const Matrix& x, const Matrix&) {
                            step(weighed(kWeighed, input, hidden, x));
                          });
}

/// Those of both streams, with the same weights.
void StageSummer::visit_both(const StageInput& input, const std::vector<std::size_t>& positions,
                             const OnBothRows& step) {
  Activations::Use use;
  use.x_width = input.width;
  Activations::Use reference_use = use;
  if (input.weighted) use.hidden = Activations::Use::read;
  input.activations.visit(
      positions, use, [&](std::size_t i, const Matrix& hidden, const Matrix& x, const Matrix&) {
        const Matrix own = weighed(kWeighed, input, hidden, x);
        input.reference->visit({i}, reference_use,
                               [&](std::size_t, const Matrix&, const Matrix& reference, const Matrix&) {
                                 step(own, weighed(kWeighedReference, input, hidden, reference));
                               });
      });
}

/// The maxima of what is summed, where that is not what the forward pass has seen.
void StageSummer::weigh_maxima(StageInput& input) {
  const std::size_t bytes = static_cast<std::size_t>(input.width) * sizeof(float);
  const std::vector<std::size_t> chunks = chunks_to_sum(input.activations, {});
  const auto find = [&](const auto& visit_all) {
    const DeviceBuffer maximum = backend_.allocate(bytes);
    backend_.set_zero(maximum.data(), bytes);
    visit_all(maximum.as<float>());
    std::vector<float> values(static_cast<std::size_t>(input.width));
    backend_.download(values.data(), maximum.data(), bytes);
    return values;
  };
  input.maximum = find([&](float* maximum) {
    visit(input, chunks, [&](const Matrix& x) { backend_.kernels().column_max(x, maximum); });
  });
  if (input.cross_part == 0) return;
  input.reference_maximum = find([&](float* maximum) {
    visit_both(input, chunks, [&](const Matrix&, const Matrix& reference) {
      backend_.kernels().column_max(reference, maximum);
    });
  });
}

/// Sums of nothing, or what `before` has of this rank's part.
StageSums StageSummer::start(StageInput& input, PartialSum& before) {
  StageSums sums;
  {
    const auto scope = phases_.in("reduce");
    comm_.all_reduce_max(input.maximum);
    if (input.cross_part > 0) comm_.all_reduce_max(input.reference_maximum);
  }
  sums.hessian = make_hessian_sum(backend_, input.maximum, total_tokens_);
  if (input.cross_part > 0)
    sums.cross = make_cross_sum(backend_, input.reference_maximum, input.maximum, cross_tokens_);
  if (!before.panels.empty()) {
    GPTQ_EXPECT(before.panels.size() == sums.hessian.count() && before.cross.size() == sums.cross.count());
    backend_.upload(sums.hessian.values(), before.panels.data(), sums.hessian.panels.size());
    if (sums.cross.n > 0) backend_.upload(sums.cross.values(), before.cross.data(), sums.cross.sum.size());
    before.panels = {};
    before.cross = {};
  }
  return sums;
}

StageSums StageSummer::accumulate(StageInput input, PartialSum before, const OnRound& on_round) {
  if (input.weighted) {
    const auto scope = phases_.in("hessian");
    weigh_maxima(input);
  }
  const std::vector<std::size_t> unsummed = chunks_to_sum(input.activations, before.done_anywhere);
  // The last round is where the reduction starts: there is one even where nothing is left to be summed.
  const auto left = static_cast<std::int64_t>(unsummed.size());
  std::vector<std::int64_t> rounds{std::clamp(left, std::int64_t{1}, kMostRounds)};
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
    if (sums.cross.n > 0) add_cross(input, positions, sums);
    if (sums.cross.n > 0 && reduces) device_comm_.start_sum(sums.cross.values(), sums.cross.count());
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
    if (sums.cross.n > 0) device_comm_.all_reduce_sum(sums.cross.values(), sums.cross.count());
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

void StageSummer::add_cross(const StageInput& input, std::vector<std::size_t> positions,
                            const StageSums& sums) {
  std::erase_if(positions,
                [&](std::size_t i) { return !is_in_part(input.activations.chunk(i), input.cross_part); });
  visit_both(input, positions, [&](const Matrix& x, const Matrix& reference) {
    const Matrix difference = like(backend_, kDifference, x);
    backend_.kernels().subtract(reference, x, difference);
    backend_.kernels().accumulate_cross(difference, sums.cross.difference_exponents, x,
                                        sums.hessian.exponents, sums.cross.values());
  });
}

void StageSummer::start_sums(std::span<const PanelRange> ranges, const HessianSum& sum) {
  for (const PanelRange& range : ranges) {
    device_comm_.start_sum(sum.values() + TriangularPanels::offset(sum.n, range.first),
                           static_cast<std::size_t>(TriangularPanels::size(sum.n, range)));
  }
}

}  // namespace gptq
