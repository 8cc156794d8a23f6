#include "pipeline/stage_solver.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "quant/column_order.h"
#include "quant/fallback.h"

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
  result.out_features = layer.rows();
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

std::int64_t rows_of(const std::vector<LayerToQuantize>& layers) {
  std::int64_t rows = 0;
  for (const LayerToQuantize& layer : layers) rows += layer.rows();
  return rows;
}

}  // namespace

StageSolver::StageSolver(Backend& backend, const Team& team, const Recipe& recipe, std::int64_t total_tokens,
                         std::int64_t total_samples, std::int64_t min_tokens, PhaseClock& phases)
    : backend_(backend),
      team_(team),
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
  if (team_.comm.size() == 1) {
    everyone.push_back(std::move(own));
    return everyone;
  }
  for (const auto& bytes : team_.comm.all_gather(serialize(own))) everyone.push_back(deserialize_rows(bytes));
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

OwnRows StageSolver::own_rows(const LayerClass& members, const StageFactor& factor) const {
  const auto share = [&] {
    if (!team_.has_helpers()) return OwnRows(team_, members.layers);
    const auto scope = phases_.in("reduce");
    return OwnRows(team_, members.layers);
  };
  OwnRows own = share();
  if (!members.section.per_channel)
    own.give_tensor_scales(team_, members.layers, members.section, factor.columns, backend_.threads());
  return own;
}

SolvedStage StageSolver::solve_over_ranks(const LayerClass& members, const StageFactor& factor,
                                          const OwnRows& rows, std::int64_t block,
                                          const SolveOwn& solve_own) {
  SolvedRows own{rows.ranges(), solve_own(rows)};
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

/// Matrices that helpers get from the root are asked for by all, whatever rows they have.
void StageSolver::share_matrices(const LayerClass& members, StageFactors& factors,
                                 const Variant& variant) const {
  const bool any =
      std::find(members.corrected.begin(), members.corrected.end(), true) != members.corrected.end();
  if (!team_.has_helpers() || !variant.corrected || !any || factors.of(members.section).fallback) return;
  factors.with_cross(members.section);
  if (factors.facts().target == CorrectionTarget::residual) factors.with_hessian(members.section);
}

/// The judge's, on every rank of the team.
double StageSolver::held_out_error(const LayerToQuantize& layer, const QuantizedLayer& candidate,
                                   HeldOutJudge* judge) {
  double error = judge != nullptr ? judge->relative_error(layer, candidate) : 0;
  if (team_.has_helpers()) team_.comm.broadcast(&error, sizeof(error), team_.root);
  return error;
}

SolvedStage StageSolver::solve_class(const LayerClass& members, StageFactors& factors, std::int64_t block,
                                     HeldOutJudge* judge) {
  RowSolver solver(backend_, members.section, factors, phases_);
  const StageFactor& factor = factors.of(members.section);
  const StageFacts& facts = factors.facts();
  const OwnRows own = own_rows(members, factor);
  std::vector<bool> corrected;
  for (const RowRange& range : own.ranges())
    corrected.push_back(members.corrected[static_cast<std::size_t>(range.layer)]);
  SolvedStage best;
  for (const Variant& variant :
       variants_of(members.section, facts.has_reference, facts.judged && !factor.fallback)) {
    share_matrices(members, factors, variant);
    SolvedStage next = solve_over_ranks(members, factor, own, block, [&](const OwnRows& rows) {
      return solver.solve(rows.parts(), corrected, variant);
    });
    for (std::size_t i = 0; i < next.layers.size(); ++i) {
      LayerStatistics& row = next.statistics[i];
      row.variant = variant.name();
      if (facts.judged) row.held_out_error = held_out_error(members.layers[i], next.layers[i], judge);
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
      solved.statistics[i].seconds = seconds_a_row * static_cast<double>(members.layers[i].rows());
      result.layers[members.members[i]] = std::move(solved.layers[i]);
      result.statistics[members.members[i]] = std::move(solved.statistics[i]);
    }
  }
  return result;
}

/// What the root knows, number by number: bytes between them have no value.
void StageSolver::share_facts(StageFacts& facts) const {
  std::array<std::int64_t, 5> numbers{facts.columns, facts.too_thin ? 1 : 0, facts.has_reference ? 1 : 0,
                                      static_cast<std::int64_t>(facts.target), facts.judged ? 1 : 0};
  team_.comm.broadcast(numbers.data(), sizeof(numbers), team_.root);
  facts = {numbers[0], numbers[1] != 0, numbers[2] != 0, static_cast<CorrectionTarget>(numbers[3]),
           numbers[4] != 0};
}

SolvedStage StageSolver::solve_all(const StageSums* sums, StageFacts facts,
                                   const std::vector<LayerToQuantize>& layers, std::int64_t block,
                                   HeldOutJudge* judge) {
  if (team_.has_helpers()) share_facts(facts);
  StageFactors factors(backend_, team_, sums, facts, phases_);
  return class_by_class(
      layers, [&](const LayerClass& members) { return solve_class(members, factors, block, judge); });
}

SolvedStage StageSolver::solve(const StageSums& sums, const std::vector<LayerToQuantize>& layers,
                               std::int64_t block, HeldOutJudge* judge) {
  const StageFacts facts{sums.hessian.n, is_too_thin(total_tokens_, min_tokens_), sums.cross.rows > 0,
                         sums.cross.target, judge != nullptr};
  return solve_all(&sums, facts, layers, block, judge);
}

SolvedStage StageSolver::help(const std::vector<LayerToQuantize>& layers, std::int64_t block) {
  GPTQ_EXPECT(team_.helps(team_.comm.rank()));
  return solve_all(nullptr, {}, layers, block, nullptr);
}

SolvedStage StageSolver::round_to_nearest(const std::vector<LayerToQuantize>& layers, std::int64_t block) {
  GPTQ_EXPECT(!team_.has_helpers());
  return class_by_class(layers, [&](const LayerClass& members) {
    StageFactor none;
    none.columns = natural_columns(members.layers[0].columns(), members.section);
    return solve_over_ranks(members, none, own_rows(members, none), block, [&](const OwnRows& own) {
      const auto scope = phases_.in("solve");
      return backend_.kernels().solve_rows(own.parts(), none.columns, nullptr, 0,
                                           solve_options(members.section));
    });
  });
}

}  // namespace gptq
