#include "pipeline/grid_search.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/error.h"
#include "pipeline/grid_choice.h"
#include "pipeline/job_context.h"
#include "pipeline/progress.h"

namespace gptq {
namespace {

bool allowed(const GridShape& grid, const GridWish& wish) {
  return (wish.stages == 0 || grid.stages == wish.stages) &&
         (wish.replicas == 0 || grid.replicas == wish.replicas);
}

/// By falling number of replicas.
std::vector<GridShape> grids_of(int ranks, std::int64_t blocks) {
  std::vector<GridShape> grids;
  for (int stages = 1; stages <= ranks && stages <= blocks; ++stages)
    if (ranks % stages == 0) grids.push_back({stages, ranks / stages});
  return grids;
}

std::vector<GridShape> wished_grids(int ranks, std::int64_t blocks, const GridWish& wish) {
  const std::vector<GridShape> all = grids_of(ranks, blocks);
  std::vector<GridShape> grids;
  std::copy_if(all.begin(), all.end(), std::back_inserter(grids),
               [&](const GridShape& grid) { return allowed(grid, wish); });
  if (!grids.empty()) return grids;
  std::vector<GridShape> near = all;
  const int stages = wish.stages > 0 ? wish.stages : std::max(1, ranks / wish.replicas);
  std::stable_sort(near.begin(), near.end(), [&](const GridShape& a, const GridShape& b) {
    return std::abs(a.stages - stages) < std::abs(b.stages - stages);
  });
  near.resize(std::min<std::size_t>(2, near.size()));
  std::string text;
  for (const GridShape& grid : near)
    text += fmt::format("{}{}x{}", text.empty() ? "" : " or ", grid.stages, grid.replicas);
  const auto part = [](int number) { return number > 0 ? std::to_string(number) : std::string("any"); };
  throw UsageError(
      "a grid of {} stages x {} replicas cannot be made of {} ranks and {} blocks: stages x replicas must be "
      "the number of ranks, and a stage needs a block. Nearest: {}",
      part(wish.stages), part(wish.replicas), ranks, blocks, text);
}

TokenShare fullest_share(const std::vector<Chunk>& chunks, const PlanRequest& request, int replicas) {
  TokenShare fullest;
  for (int replica = 0; replica < replicas; ++replica) {
    const TokenShare next = share_of(chunks, request.sample_lengths, replica, replicas);
    if (next.all.tokens > fullest.all.tokens) fullest = next;
  }
  return fullest;
}

/// Seconds that no schedule of this grid can beat: reading by the file system, by a node's way to it, by a
/// rank's reader; or forward pass and sums of the fullest replica, and its part of the rows. With quantized
/// propagation stages take turns.
double bound(const PlanRequest& request, const Plan& plan, const Machine& machine, const GridChoice& choice) {
  const auto samples = static_cast<std::int64_t>(request.sample_lengths.size());
  const std::vector<Chunk> chunks = make_chunks(request.sample_lengths, plan.chunk_tokens,
                                                held_out_samples(samples, request.job.calibration.held_out));
  const int replicas = choice.grid.replicas;
  const TokenShare share = fullest_share(chunks, request, replicas);
  const TokenShare everyone = share_of(chunks, request.sample_lengths, 0, 1);
  const RankPlaces places{replicas, std::min(replicas, choice.ranks_on_node)};
  const Recipe recipe(request.job.quantization);
  const Costs costs(machine);
  double working = 0, node_bytes = 0, decoding = 0;
  for (std::int64_t block = 0; block < plan.blocks; ++block) {
    const BlockWork work(request.model, request.job, recipe, block, request.compute, replicas);
    const TokenShare routed = work.routed(everyone);
    for (std::int64_t group = 0; group < work.groups(); ++group) {
      if (!work.quantizes(group)) continue;
      const TokenShare::Part& summed = work.has_experts(group) ? routed.summed : share.summed;
      working += costs.seconds(work.solve(group, request.ranks));
      if (!request.sample_lengths.empty()) working += costs.seconds(work.sums(group, summed));
    }
    if (!request.sample_lengths.empty()) working += costs.seconds(work.pass(share.all, routed.all));
    node_bytes += work.shared_bytes() + work.own_bytes() * places.per_node;
    decoding += costs.seconds(work.decode());
  }
  const int stages = choice.grid.stages;
  working /= (machine.is_cpu() ? choice.threads : 1) * (choice.full_precision ? stages : 1);
  return std::max({working, decoding / stages, node_bytes / stages / machine.files.node,
                   node_bytes * places.nodes() / machine.files.all});
}

struct Candidate {
  GridChoice choice;
  PlanRequest request;
  Plan plan;
  double bound = 0;
  std::optional<SimulatedJob> simulated;
};

std::string grid_text(const GridShape& grid) {
  return fmt::format("{} x {}", grid.stages, grid.replicas);
}

std::string against(const Candidate& other, const Candidate& best) {
  const std::string grid = grid_text(other.choice.grid);
  const std::string least = other.simulated
                                ? fmt::format("would take {}", duration_text(other.simulated->seconds))
                                : fmt::format("would take at least {}", duration_text(other.bound));
  const bool more_stages = other.choice.grid.stages > best.choice.grid.stages;
  std::string why;
  if (more_stages && !other.choice.full_precision)
    why = ": with quantized propagation one stage works at a time, the others help with rows only";
  if (other.simulated && other.simulated->read_bytes < 0.9 * best.simulated->read_bytes) {
    why += fmt::format("{} it would read {} instead of {}", why.empty() ? ":" : ";",
                       bytes_text(static_cast<std::int64_t>(other.simulated->read_bytes)),
                       bytes_text(static_cast<std::int64_t>(best.simulated->read_bytes)));
  }
  if (other.simulated && other.simulated->seconds < best.simulated->seconds)
    why +=
        fmt::format("{} less than the chosen one: set parallel.stages to take it", why.empty() ? ":" : ";");
  return grid + " " + least + why;
}

/// For a choice, and against the others: the fastest ones first.
std::vector<std::string> reasons_of(const Candidate& best, const std::vector<Candidate>& candidates,
                                    const std::vector<GridShape>& too_large) {
  std::vector<const Candidate*> others;
  for (const Candidate& other : candidates)
    if (&other != &best) others.push_back(&other);
  const auto seconds = [](const Candidate* c) { return c->simulated ? c->simulated->seconds : c->bound; };
  std::stable_sort(others.begin(), others.end(), [&](const Candidate* a, const Candidate* b) {
    return std::pair(!a->simulated, seconds(a)) < std::pair(!b->simulated, seconds(b));
  });
  std::vector<std::string> reasons;
  for (const Candidate* other : others)
    if (reasons.size() < 3) reasons.push_back(against(*other, best));
  for (const GridShape& grid : too_large)
    if (reasons.size() < 5) reasons.push_back(grid_text(grid) + " does not fit the memory");
  if (best.plan.idle_ranks > 0) {
    reasons.push_back(fmt::format("{} of the ranks have no samples: there are {} chunks of {} tokens",
                                  best.plan.idle_ranks, best.plan.chunks, best.plan.chunk_tokens));
  }
  return reasons;
}

bool fast_bf16(const Machine& machine) {
  const auto rate = [&](const char* kernel) {
    const auto found = machine.kernels.find(kernel);
    return found == machine.kernels.end() ? 0 : found->second.back().rate;
  };
  return rate("linear.bf16") > rate("linear.f32");
}

}  // namespace

void require_links(const Machine& machine, const RankPlaces& places) {
  if (places.nodes() == 1 || machine.fabric.bandwidth > 0) return;
  throw UsageError(
      "{} ranks need more than one node of {} ranks, and the machine description {} has no links.fabric: "
      "add it, or ask for fewer ranks",
      places.ranks, places.per_node, machine.name);
}

PlanRequest on_machine(PlanRequest request, const Machine& machine, int ranks) {
  require_links(machine, {ranks, std::min(ranks, machine.node.ranks)});
  request.ranks = ranks;
  request.ranks_on_node = std::min(ranks, machine.node.ranks);
  request.node_memory_bytes = machine.node.memory;
  const std::string& dtype = request.job.compute.dtype;
  request.compute = dtype == "bf16" || (dtype == "auto" && fast_bf16(machine)) ? DType::bf16 : DType::f32;
  request.device = {};
  if (!machine.is_cpu()) {
    const std::int64_t unseen = machine.device.driver + (ranks > 1 ? machine.device.collectives : 0);
    request.device = {true, machine.device.memory - unseen, 1};
  }
  return request;
}

Forecast choose(const PlanRequest& request, const Machine& machine, const GridWish& wish) {
  std::vector<Candidate> candidates;
  std::vector<GridShape> too_large;
  std::optional<Candidate> first;
  for (const GridShape& grid : wished_grids(request.ranks, request.model.config().num_hidden_layers, wish)) {
    Candidate candidate{{}, request, {}, 0, {}};
    candidate.choice.grid = grid;
    candidate.choice.ranks_on_node = request.ranks_on_node;
    candidate.choice.full_precision = request.job.quantization.propagation == "full_precision";
    candidate.choice.helpers = grid.stages > 1 && stages_help(request.job);
    const int wanted = request.job.compute.threads;
    candidate.choice.threads = wanted > 0 ? wanted : std::max(1, machine.node.cores / request.ranks_on_node);
    candidate.request.stages = grid.stages;
    candidate.plan = make_plan(candidate.request);
    if (!first) first.emplace(candidate);
    if (!fits(candidate.request, candidate.plan)) {
      too_large.push_back(grid);
      continue;
    }
    candidate.bound = bound(candidate.request, candidate.plan, machine, candidate.choice);
    candidates.push_back(std::move(candidate));
  }
  // Of what a job runs by itself, unless a grid was asked for.
  const bool asked = wish.stages > 0 || wish.replicas > 0;
  const auto eligible = [&](const Candidate& each) { return asked || each.choice.grid.stages == 1; };
  if (std::none_of(candidates.begin(), candidates.end(), eligible)) {
    require_fit(first->request, first->plan);  // says what would fit
    contract_violation("a grid that was left out does not fit", __FILE__, __LINE__);
  }
  const Candidate* best = nullptr;
  const auto consider = [&](Candidate& candidate) {
    // What cannot be faster than the best needs no simulation; the bound is exact in that sense.
    if (best != nullptr && candidate.bound >= best->simulated->seconds) return;
    candidate.simulated = simulate(candidate.request, candidate.plan, machine, candidate.choice);
    if (!eligible(candidate)) return;
    if (best == nullptr || candidate.simulated->seconds < best->simulated->seconds) best = &candidate;
  };
  for (Candidate& candidate : candidates)
    if (eligible(candidate)) consider(candidate);
  for (Candidate& candidate : candidates)
    if (!eligible(candidate)) consider(candidate);
  Forecast forecast{best->choice, best->plan,           *best->simulated,
                    machine.name, machine.provenance(), reasons_of(*best, candidates, too_large)};
  forecast.bound = best->bound;
  forecast.quantizable = request.model.quantizable();
  const int nodes = RankPlaces{request.ranks, request.ranks_on_node}.nodes();
  forecast.disk_speed = std::min(machine.files.write_all, nodes * machine.files.write_node);
  forecast.uncounted_copies =
      best->plan.activation_place == Place::host && !machine.is_cpu() && machine.device.copy == 0;
  return forecast;
}

GridWish parse_grid(const std::string& text) {
  GridWish wish;
  const std::size_t cross = text.find('x');
  const auto number = [&](std::size_t first, std::size_t last, int& value) {
    const auto [end, error] = std::from_chars(text.data() + first, text.data() + last, value);
    return error == std::errc() && end == text.data() + last && value > 0;
  };
  if (cross == std::string::npos || !number(0, cross, wish.stages) ||
      !number(cross + 1, text.size(), wish.replicas))
    throw UsageError("--grid: '{}' is no grid; write STAGESxREPLICAS, as in 2x4", text);
  return wish;
}

}  // namespace gptq
