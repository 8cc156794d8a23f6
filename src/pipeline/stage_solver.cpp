#include "pipeline/stage_solver.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "quant/column_order.h"
#include "quant/fallback.h"
#include "quant/tensor_scale.h"

namespace gptq {
namespace {

/// Sums of a layer's row figures, added in row order so that the report is the same on any number of ranks.
struct RowSums {
  double loss = 0, solve_error = 0, output_error = 0, output_norm = 0, weight_error = 0, weight_norm = 0;
  std::int64_t raised_rows = 0;

  void add(const QuantizedRows& rows) {
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows.rows); ++r) {
      loss += rows.solve_loss[r];
      solve_error += rows.solve_error[r];
      output_error += rows.output_error[r];
      raised_rows += rows.output_error[r] > rows.solve_error[r] ? 1 : 0;
      output_norm += rows.output_norm[r];
      weight_error += rows.weight_error[r];
      weight_norm += rows.weight_norm[r];
    }
  }
};

double ratio(double part, double whole) {
  return whole > 0 ? part / whole : 0;
}

QuantizedLayer empty_layer(const LayerToQuantize& layer, const SolveColumns& columns, int bits) {
  QuantizedLayer result;
  result.module = layer.module;
  result.out_features = layer.weight->shape[0];
  result.in_features = columns.n;
  result.groups = columns.groups;
  result.bits = bits;
  result.group_of = columns.group_of;
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

/// given: of each layer; empty: scales are sought.
std::vector<RowsToSolve> parts_of(const std::vector<LayerToQuantize>& layers,
                                  const std::vector<GivenScales>& given,
                                  const std::vector<RowRange>& ranges) {
  std::vector<RowsToSolve> parts;
  for (const RowRange& range : ranges) {
    const auto index = static_cast<std::size_t>(range.layer);
    const LayerToQuantize& layer = layers[index];
    RowsToSolve part{layer.weight->matrix().rows_from(range.first, range.count), layer.prepared, range.first};
    if (!given.empty()) {
      part.scales = given[index].scales.data() + range.first;
      part.zeros = given[index].zeros.data() + range.first;
    }
    parts.push_back(part);
  }
  return parts;
}

/// One grid a layer, where the recipe wants that.
std::vector<GivenScales> tensor_scales(const std::vector<LayerToQuantize>& layers,
                                       const QuantizationSection& section, const SolveColumns& columns,
                                       int threads) {
  std::vector<GivenScales> given;
  if (section.per_channel) return given;
  for (const LayerToQuantize& layer : layers) {
    const Matrix weight = layer.weight->matrix();
    given.push_back(
        repeated(find_tensor_scale(weight, columns.weight, solve_options(section), threads), weight.rows));
  }
  return given;
}

std::int64_t rows_of(const std::vector<LayerToQuantize>& layers) {
  std::int64_t rows = 0;
  for (const LayerToQuantize& layer : layers) rows += layer.weight->shape[0];
  return rows;
}

}  // namespace

StageSolver::StageSolver(Backend& backend, Communicator& comm, DeviceCollectives& device_comm,
                         const Recipe& recipe, std::int64_t total_tokens, std::int64_t total_samples,
                         std::int64_t min_tokens, PhaseClock& phases)
    : backend_(backend),
      comm_(comm),
      device_comm_(device_comm),
      recipe_(recipe),
      total_tokens_(total_tokens),
      total_samples_(total_samples),
      min_tokens_(min_tokens),
      phases_(phases) {}

std::vector<StageSolver::LayerClass> StageSolver::classes_of(
    const std::vector<LayerToQuantize>& layers) const {
  std::vector<LayerClass> classes;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const QuantizationSection section = recipe_.section_of(layers[i].module);
    auto found = std::find_if(classes.begin(), classes.end(),
                              [&](const LayerClass& other) { return other.section == section; });
    if (found == classes.end()) found = classes.insert(classes.end(), LayerClass{section, {}, {}, {}});
    found->members.push_back(i);
    found->layers.push_back(layers[i]);
    found->corrected.push_back(recipe_.corrects(layers[i].module));
  }
  return classes;
}

std::vector<SolvedRows> StageSolver::gather(SolvedRows own) {
  std::vector<SolvedRows> everyone;
  if (comm_.size() == 1) {
    everyone.push_back(std::move(own));
    return everyone;
  }
  for (const auto& bytes : comm_.all_gather(serialize(own))) everyone.push_back(deserialize_rows(bytes));
  return everyone;
}

LayerStatistics StageSolver::statistics(const LayerToQuantize& layer, const QuantizationSection& section,
                                        const StageFactor& factor, std::int64_t block) const {
  const bool calibrated = factor.factor() != nullptr || factor.fallback;
  LayerStatistics row;
  row.module = layer.module;
  row.block = block;
  row.bits = section.bits;
  row.group_size = section.group_size;
  row.samples = calibrated ? total_samples_ : 0;
  row.tokens = calibrated ? total_tokens_ : 0;
  row.damp_percent = factor.damp_percent;
  row.damping_steps = factor.damping_steps;
  row.fallback = factor.fallback;
  if (factor.fallback) {
    row.fallback_reason =
        is_too_thin(total_tokens_, min_tokens_) ? too_few_tokens(min_tokens_) : not_positive_definite();
  }
  return row;
}

SolvedStage StageSolver::solve_over_ranks(const LayerClass& members, const StageFactor& factor,
                                          std::int64_t block, const SolveOwn& solve_own) {
  std::vector<std::int64_t> out_features;
  for (const LayerToQuantize& layer : members.layers) out_features.push_back(layer.weight->shape[0]);
  SolvedRows own;
  own.ranges = rows_of_rank(out_features, comm_.rank(), comm_.size());
  const std::vector<GivenScales> given =
      tensor_scales(members.layers, members.section, factor.columns, backend_.threads());
  own.rows = solve_own(parts_of(members.layers, given, own.ranges), own.ranges);

  const auto scope = phases_.in("gather");
  SolvedStage result;
  for (const LayerToQuantize& layer : members.layers) {
    result.layers.push_back(empty_layer(layer, factor.columns, members.section.bits));
    result.statistics.push_back(statistics(layer, members.section, factor, block));
  }
  std::vector<RowSums> sums(members.layers.size());
  for (SolvedRows& theirs : gather(std::move(own))) {
    for (std::size_t i = 0; i < theirs.ranges.size(); ++i) {
      const auto layer = static_cast<std::size_t>(theirs.ranges[i].layer);
      sums[layer].add(theirs.rows[i]);
      place(theirs.rows[i], theirs.ranges[i], result.layers[layer]);
    }
  }
  for (std::size_t i = 0; i < sums.size(); ++i) {
    LayerStatistics& row = result.statistics[i];
    row.loss = sums[i].loss;
    row.squared_weight_error = sums[i].weight_error;
    row.squared_output_error = sums[i].output_error;
    row.relative_weight_error = ratio(sums[i].weight_error, sums[i].weight_norm);
    row.relative_output_error = ratio(sums[i].output_error, sums[i].output_norm);
    row.refinement_gain = ratio(sums[i].solve_error - sums[i].output_error, sums[i].solve_error);
    row.raised_rows = sums[i].raised_rows;
  }
  return result;
}

SolvedStage StageSolver::solve_class(const LayerClass& members, StageFactors& factors, std::int64_t block,
                                     HeldOutJudge* judge) {
  RowSolver solver(backend_, members.section, factors, phases_);
  const StageFactor& factor = factors.of(members.section);
  SolvedStage best;
  for (const Variant& variant :
       variants_of(members.section, factors.has_reference(), judge != nullptr && !factor.fallback)) {
    SolvedStage next = solve_over_ranks(
        members, factor, block, [&](const std::vector<RowsToSolve>& parts, const std::vector<RowRange>& own) {
          std::vector<bool> corrected;
          for (const RowRange& range : own)
            corrected.push_back(members.corrected[static_cast<std::size_t>(range.layer)]);
          return solver.solve(parts, corrected, variant);
        });
    for (std::size_t i = 0; i < next.layers.size(); ++i) {
      LayerStatistics& row = next.statistics[i];
      row.variant = variant.name();
      if (judge != nullptr) row.held_out_error = judge->relative_error(members.layers[i], next.layers[i]);
      if (best.layers.size() <= i) {
        best.layers.push_back(std::move(next.layers[i]));
        best.statistics.push_back(row);
      } else if (row.held_out_error <= best.statistics[i].held_out_error) {
        best.layers[i] = std::move(next.layers[i]);
        best.statistics[i] = row;
      }
    }
  }
  return best;
}

SolvedStage StageSolver::class_by_class(const std::vector<LayerToQuantize>& layers,
                                        const std::function<SolvedStage(const LayerClass&)>& solve) const {
  SolvedStage result;
  result.layers.resize(layers.size());
  result.statistics.resize(layers.size());
  for (const LayerClass& members : classes_of(layers)) {
    const Stopwatch watch;
    SolvedStage solved = solve(members);
    const double seconds_a_row = watch.seconds() / static_cast<double>(rows_of(members.layers));
    for (std::size_t i = 0; i < members.members.size(); ++i) {
      solved.statistics[i].seconds = seconds_a_row * static_cast<double>(members.layers[i].weight->shape[0]);
      result.layers[members.members[i]] = std::move(solved.layers[i]);
      result.statistics[members.members[i]] = std::move(solved.statistics[i]);
    }
  }
  return result;
}

SolvedStage StageSolver::solve(const StageSums& sums, const std::vector<LayerToQuantize>& layers,
                               std::int64_t block, HeldOutJudge* judge) {
  StageFactors factors(backend_, comm_, device_comm_, sums, is_too_thin(total_tokens_, min_tokens_), phases_);
  return class_by_class(
      layers, [&](const LayerClass& members) { return solve_class(members, factors, block, judge); });
}

SolvedStage StageSolver::round_to_nearest(const std::vector<LayerToQuantize>& layers, std::int64_t block) {
  return class_by_class(layers, [&](const LayerClass& members) {
    StageFactor none;
    none.columns = natural_columns(members.layers[0].weight->shape[1], members.section);
    return solve_over_ranks(members, none, block,
                            [&](const std::vector<RowsToSolve>& parts, const std::vector<RowRange>&) {
                              const auto scope = phases_.in("solve");
                              return backend_.kernels().solve_rows(parts, none.columns, nullptr, 0,
                                                                   solve_options(members.section));
                            });
  });
}

}  // namespace gptq
