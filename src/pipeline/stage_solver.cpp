#include "pipeline/stage_solver.h"

#include <algorithm>

#include "base/error.h"

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
  result.codes.resize(static_cast<std::size_t>(result.out_features * result.in_features));
  result.scales.resize(static_cast<std::size_t>(result.out_features * result.groups));
  result.zeros.resize(result.scales.size());
  result.group_of = factor.columns.group_of;
  return result;
}

void place(const QuantizedRows& rows, std::int64_t first, QuantizedLayer& layer) {
  std::copy(rows.codes.begin(), rows.codes.end(), layer.codes.begin() + first * layer.in_features);
  std::copy(rows.scales.begin(), rows.scales.end(), layer.scales.begin() + first * layer.groups);
  std::copy(rows.zeros.begin(), rows.zeros.end(), layer.zeros.begin() + first * layer.groups);
}

}  // namespace

StageSolver::StageSolver(Backend& backend, Communicator& comm, const Recipe& recipe,
                         std::int64_t total_tokens, std::int64_t total_samples, PhaseClock& phases)
    : backend_(backend),
      comm_(comm),
      recipe_(recipe),
      total_tokens_(total_tokens),
      total_samples_(total_samples),
      phases_(phases) {}

HessianSum StageSolver::accumulate(const Activations& activations, std::int64_t width,
                                   std::vector<float> maximum, PartialSum before, const OnRound& on_round) {
  const std::vector<std::size_t> unsummed = chunks_to_sum(activations, before.done_anywhere);
  std::vector<std::int64_t> rounds{std::min(kMostRounds, static_cast<std::int64_t>(unsummed.size()))};
  {
    const auto scope = phases_.in("reduce");
    comm_.all_reduce_max(maximum);
    comm_.all_reduce_max(rounds);
  }
  HessianSum sum = make_hessian_sum(maximum, total_tokens_);
  if (!before.panels.empty()) {
    GPTQ_EXPECT(before.panels.size() == sum.panels.size());
    sum.panels = std::move(before.panels);
  }
  for (std::int64_t round = 0; round < rounds[0]; ++round) {
    if (round > 0) on_round(sum.panels, before.chunks);
    const auto scope = phases_.in("hessian");
    const auto bound = [&](std::int64_t r) {
      return static_cast<std::int64_t>(unsummed.size()) * r / rounds[0];
    };
    for (std::int64_t i = bound(round); i < bound(round + 1); ++i) {
      const std::size_t chunk = unsummed[static_cast<std::size_t>(i)];
      backend_.kernels().accumulate_hessian(activations.x(chunk, width), sum.exponents, sum.panels.data());
      before.chunks.push_back(activations.chunk(chunk).index);
    }
  }
  const auto scope = phases_.in("reduce");
  comm_.all_reduce_sum(sum.panels);
  return sum;
}

StageFactor StageSolver::factor(const HessianSum& sum) {
  std::vector<std::byte> bytes;
  {
    const auto scope = phases_.in("factor");
    run_on_root(comm_, [&] {
      bytes = serialize(factor_hessian(backend_.kernels(), to_hessian(sum), sum.n, recipe_.section()));
    });
  }
  const auto scope = phases_.in("reduce");
  std::int64_t size = static_cast<std::int64_t>(bytes.size());
  comm_.broadcast(&size, sizeof(size), 0);
  bytes.resize(static_cast<std::size_t>(size));
  comm_.broadcast(bytes.data(), bytes.size(), 0);
  return deserialize_factor(bytes);
}

StageFactor StageSolver::no_factor(std::int64_t width) const {
  StageFactor factor;
  factor.columns = natural_columns(width, recipe_.section());
  return factor;
}

std::vector<QuantizedRows> StageSolver::solve_own_rows(const StageFactor& factor,
                                                       const std::vector<LayerToQuantize>& layers,
                                                       const std::vector<RowRange>& ranges) {
  std::vector<QuantizedRows> solved;
  for (const RowRange& range : ranges) {
    const HostTensor& weight = *layers[static_cast<std::size_t>(range.layer)].weight;
    HostTensor rows = make_tensor(weight.dtype, {range.count, weight.matrix().cols});
    const Matrix source = weight.matrix().rows_from(range.first, range.count);
    std::copy_n(static_cast<const std::byte*>(source.data), rows.storage.size(), rows.storage.data());
    const HostTensor floats = convert(rows, DType::f32);
    solved.push_back(backend_.kernels().solve_rows(floats.matrix(), factor.columns, factor.r, factor.damping,
                                                   recipe_.solve_options()));
  }
  return solved;
}

SolvedStage StageSolver::solve(const StageFactor& factor, const std::vector<LayerToQuantize>& layers,
                               std::int64_t block) {
  Stopwatch watch;
  std::vector<std::int64_t> out_features;
  std::int64_t total_rows = 0;
  for (const LayerToQuantize& layer : layers) {
    out_features.push_back(layer.weight->shape[0]);
    total_rows += out_features.back();
  }
  const std::vector<RowRange> ranges = rows_of_rank(out_features, comm_.rank(), comm_.size());
  std::vector<std::byte> mine;
  {
    const auto scope = phases_.in("solve");
    mine = serialize(ranges, solve_own_rows(factor, layers, ranges));
  }
  const auto scope = phases_.in("reduce");
  const auto everyone = comm_.all_gather(mine);

  SolvedStage result;
  std::vector<RowSums> sums(layers.size());
  for (const LayerToQuantize& layer : layers) {
    result.layers.push_back(empty_layer(layer, factor, recipe_.section().bits));
  }
  for (const auto& bytes : everyone) {
    std::vector<RowRange> their_ranges;
    std::vector<QuantizedRows> their_rows;
    deserialize_rows(bytes, their_ranges, their_rows);
    for (std::size_t i = 0; i < their_ranges.size(); ++i) {
      const std::size_t layer = static_cast<std::size_t>(their_ranges[i].layer);
      place(their_rows[i], their_ranges[i].first, result.layers[layer]);
      sums[layer].add(their_rows[i]);
    }
  }
  const double seconds = watch.seconds();
  const bool rtn = factor.r.empty();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    LayerStatistics row;
    row.module = layers[i].module;
    row.block = block;
    row.bits = recipe_.section().bits;
    row.group_size = recipe_.section().group_size;
    row.samples = rtn && !factor.fallback ? 0 : total_samples_;
    row.tokens = rtn && !factor.fallback ? 0 : total_tokens_;
    row.damp_percent = factor.damp_percent;
    row.damping_steps = factor.damping_steps;
    row.fallback = factor.fallback;
    if (factor.fallback) row.fallback_reason = "the Hessian is not positive definite even with full damping";
    row.loss = sums[i].loss;
    row.relative_weight_error = ratio(sums[i].weight_error, sums[i].weight_norm);
    row.relative_output_error = ratio(sums[i].output_error, sums[i].output_norm);
    row.seconds = seconds * static_cast<double>(out_features[i]) / static_cast<double>(total_rows);
    result.statistics.push_back(row);
  }
  return result;
}

}  // namespace gptq
