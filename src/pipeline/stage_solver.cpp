#include "pipeline/stage_solver.h"

#include <algorithm>

#include "base/error.h"
#include "quant/fallback.h"

namespace gptq {
namespace {

/// Sums of a layer's row figures, added in row order so that the report is the same on any number of ranks.
struct RowSums {
  double loss = 0, output_error = 0, output_norm = 0, weight_error = 0, weight_norm = 0;

  void add(const QuantizedRows& rows) {
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows.rows); ++r) {
      loss += rows.solve_loss[r];
      output_error += rows.output_error[r];
      output_norm += rows.output_norm[r];
      weight_error += rows.weight_error[r];
      weight_norm += rows.weight_norm[r];
    }
  }
};

/// Between two rounds a job may be stopped: more rounds mean a shorter way there and more waiting for each
/// other.
constexpr std::int64_t kMostRounds = 8;

/// Positions of this rank's chunks that nobody has summed yet.
std::vector<std::size_t> chunks_to_sum(const Activations& activations,
                                       const std::vector<std::int64_t>& done) {
  std::vector<std::size_t> unsummed;
  for (std::size_t i = 0; i < activations.chunks(); ++i) {
    if (std::find(done.begin(), done.end(), activations.chunk(i).index) == done.end()) unsummed.push_back(i);
  }
  return unsummed;
}

double ratio(double part, double whole) {
  return whole > 0 ? part / whole : 0;
}

QuantizedLayer empty_layer(const LayerToQuantize& layer, const StageFactor& factor, int bits) {
  QuantizedLayer result;
  result.module = layer.module;
  result.out_features = layer.weight->shape[0];
  result.in_features = factor.columns.n;
  result.groups = factor.columns.groups;
  result.bits = bits;
  result.group_of = factor.columns.group_of;
  return result;
}

/// Puts solved rows into their layer; moves what is a layer in full.
void place(QuantizedRows& rows, const RowRange& range, QuantizedLayer& layer) {
  if (range.count == layer.out_features) {
    layer.codes = std::move(rows.codes);
    layer.scales = std::move(rows.scales);
    layer.zeros = std::move(rows.zeros);
    return;
  }
  const auto copy = [&](const auto& source, auto& target, std::int64_t width) {
    target.resize(static_cast<std::size_t>(layer.out_features * width));
    std::copy(source.begin(), source.end(), target.begin() + range.first * width);
  };
  copy(rows.codes, layer.codes, layer.in_features);
  copy(rows.scales, layer.scales, layer.groups);
  copy(rows.zeros, layer.zeros, layer.groups);
}

}  // namespace

StageSolver::StageSolver(Backend& backend, Communicator& comm, DeviceCollectives& device_comm,
                         const Recipe& recipe, std::int64_t total_tokens, std::int64_t total_samples,
                         PhaseClock& phases)
    : backend_(backend),
      comm_(comm),
      device_comm_(device_comm),
      recipe_(recipe),
      total_tokens_(total_tokens),
      total_samples_(total_samples),
      phases_(phases) {}

HessianSum StageSolver::accumulate(Activations& activations, std::int64_t width, std::vector<float> maximum,
                                   PartialSum before, const OnRound& on_round) {
  const std::vector<std::size_t> unsummed = chunks_to_sum(activations, before.done_anywhere);
  // The last round is where the reduction starts: there is one even where nothing is left to be summed.
  const auto left = static_cast<std::int64_t>(unsummed.size());
  std::vector<std::int64_t> rounds{std::clamp(left, std::int64_t{1}, kMostRounds)};
  {
    const auto scope = phases_.in("reduce");
    comm_.all_reduce_max(maximum);
    comm_.all_reduce_max(rounds);
  }
  HessianSum sum = make_hessian_sum(backend_, maximum, total_tokens_);
  if (!before.panels.empty()) {
    GPTQ_EXPECT(before.panels.size() == sum.count());
    backend_.upload(sum.values(), before.panels.data(), sum.panels.size());
    before.panels = {};
  }
  const std::vector<PanelRange> ranges = backend_.kernels().hessian_ranges(width);
  // The order of the collectives must be the same on all ranks, wherever their activations lie.
  const bool overlapped = comm_.size() > 1 && ranges.size() > 1 && device_comm_.overlaps();
  for (std::int64_t round = 0; round < rounds[0]; ++round) {
    if (round > 0) on_round(sum, before.chunks);
    const auto scope = phases_.in("hessian");
    const auto bound = [&](std::int64_t r) {
      return unsummed.begin() + static_cast<std::int64_t>(unsummed.size()) * r / rounds[0];
    };
    const std::vector<std::size_t> positions(bound(round), bound(round + 1));
    const bool reduces = overlapped && round + 1 == rounds[0];
    // Chunks that have to be copied to the device pass through it once.
    const std::size_t together = reduces && activations.resident() ? 1 : ranges.size();
    for (std::size_t first = 0; first < ranges.size(); first += together) {
      const std::span pass = std::span(ranges).subspan(first, together);
      add_chunks(activations, positions, pass, sum);
      if (reduces) start_sums(pass, sum);
    }
    for (const std::size_t i : positions) before.chunks.push_back(activations.chunk(i).index);
  }
  const auto scope = phases_.in("reduce");
  if (overlapped) {
    device_comm_.join();
  } else {
    device_comm_.all_reduce_sum(sum.values(), sum.count());
  }
  device_comm_.wait();
  return sum;
}

void StageSolver::add_chunks(Activations& activations, const std::vector<std::size_t>& positions,
                             std::span<const PanelRange> ranges, const HessianSum& sum) {
  Activations::Use use;
  use.x_width = sum.n;
  activations.visit(positions, use, [&](std::size_t, const Matrix&, const Matrix& x, const Matrix&) {
    for (const PanelRange& range : ranges)
      backend_.kernels().accumulate_hessian(x, sum.exponents, range, sum.values());
  });
}

void StageSolver::start_sums(std::span<const PanelRange> ranges, const HessianSum& sum) {
  for (const PanelRange& range : ranges) {
    device_comm_.start_sum(sum.values() + TriangularPanels::offset(sum.n, range.first),
                           static_cast<std::size_t>(TriangularPanels::size(sum.n, range)));
  }
}

StageFactor StageSolver::factor(const HessianSum& sum) {
  StageFactor factor;
  std::vector<std::byte> bytes;
  {
    const auto scope = phases_.in("factor");
    run_on_root(comm_, [&] {
      factor = factor_hessian(backend_, sum, recipe_.section());
      bytes = serialize(factor);
    });
  }
  if (comm_.size() == 1) return factor;
  const auto scope = phases_.in("reduce");
  auto size = static_cast<std::int64_t>(bytes.size());
  comm_.broadcast(&size, sizeof(size), 0);
  bytes.resize(static_cast<std::size_t>(size));
  comm_.broadcast(bytes.data(), bytes.size(), 0);
  if (!comm_.is_root()) {
    factor = deserialize_factor(bytes);
    if (!factor.fallback) factor.r = backend_.allocate(factor_bytes(sum.n));
  }
  if (!factor.fallback) device_comm_.broadcast(factor.r.data(), factor.r.size(), 0);
  device_comm_.wait();
  return factor;
}

StageFactor StageSolver::no_factor(std::int64_t width) const {
  StageFactor factor;
  factor.columns = natural_columns(width, recipe_.section());
  return factor;
}

SolvedRows StageSolver::solve_own_rows(const StageFactor& factor,
                                       const std::vector<LayerToQuantize>& layers) {
  std::vector<std::int64_t> out_features;
  for (const LayerToQuantize& layer : layers) out_features.push_back(layer.weight->shape[0]);
  SolvedRows solved;
  solved.ranges = rows_of_rank(out_features, comm_.rank(), comm_.size());
  std::vector<RowsToSolve> parts;
  for (const RowRange& range : solved.ranges) {
    const LayerToQuantize& layer = layers[static_cast<std::size_t>(range.layer)];
    parts.push_back(
        {layer.weight->matrix().rows_from(range.first, range.count), layer.prepared, range.first});
  }
  solved.rows = backend_.kernels().solve_rows(parts, factor.columns, factor.factor(), factor.damping,
                                              solve_options(recipe_.section()));
  return solved;
}

LayerStatistics StageSolver::statistics(const LayerToQuantize& layer, const StageFactor& factor,
                                        std::int64_t block) const {
  const bool calibrated = factor.factor() != nullptr || factor.fallback;
  LayerStatistics row;
  row.module = layer.module;
  row.block = block;
  row.bits = recipe_.section().bits;
  row.group_size = recipe_.section().group_size;
  row.samples = calibrated ? total_samples_ : 0;
  row.tokens = calibrated ? total_tokens_ : 0;
  row.damp_percent = factor.damp_percent;
  row.damping_steps = factor.damping_steps;
  row.fallback = factor.fallback;
  if (factor.fallback) row.fallback_reason = not_positive_definite();
  return row;
}

SolvedStage StageSolver::solve(const StageFactor& factor, const std::vector<LayerToQuantize>& layers,
                               std::int64_t block) {
  Stopwatch watch;
  std::vector<SolvedRows> everyone(1);
  {
    const auto scope = phases_.in("solve");
    everyone[0] = solve_own_rows(factor, layers);
  }
  const auto scope = phases_.in("gather");
  if (comm_.size() > 1) {
    const auto all_bytes = comm_.all_gather(serialize(everyone[0]));
    everyone.clear();
    for (const auto& bytes : all_bytes) everyone.push_back(deserialize_rows(bytes));
  }

  SolvedStage result;
  std::vector<RowSums> sums(layers.size());
  for (const LayerToQuantize& layer : layers) {
    result.layers.push_back(empty_layer(layer, factor, recipe_.section().bits));
  }
  for (SolvedRows& theirs : everyone) {
    for (std::size_t i = 0; i < theirs.ranges.size(); ++i) {
      const auto layer = static_cast<std::size_t>(theirs.ranges[i].layer);
      sums[layer].add(theirs.rows[i]);
      place(theirs.rows[i], theirs.ranges[i], result.layers[layer]);
    }
  }
  const double seconds = watch.seconds();
  std::int64_t total_rows = 0;
  for (const LayerToQuantize& layer : layers) total_rows += layer.weight->shape[0];
  for (std::size_t i = 0; i < layers.size(); ++i) {
    LayerStatistics row = statistics(layers[i], factor, block);
    row.loss = sums[i].loss;
    row.relative_weight_error = ratio(sums[i].weight_error, sums[i].weight_norm);
    row.relative_output_error = ratio(sums[i].output_error, sums[i].output_norm);
    row.seconds = seconds * static_cast<double>(layers[i].weight->shape[0]) / static_cast<double>(total_rows);
    result.statistics.push_back(row);
  }
  return result;
}

}  // namespace gptq
