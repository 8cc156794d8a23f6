#include "pipeline/job_lanes.h"

#include <algorithm>

namespace gptq {
namespace {

/// More ranks than these are folded where nothing but files and links is shared.
constexpr int kMostSingleRanks = 16;

/// Of a node: what its ranks compute together when 1, 2, ... of them do.
std::vector<double> core_rates(const Machine& machine, int threads) {
  std::vector<double> rates;
  for (int busy = 1; busy == 1 || (busy - 1) * threads < machine.node.cores; ++busy)
    rates.push_back(std::min(busy * threads, machine.node.cores) * machine.share_together(busy));
  return rates;
}

}  // namespace

Lanes::Lanes(const PlanRequest& request, const std::vector<Chunk>& chunks, const Machine& machine,
             const GridChoice& choice, Simulator& simulator) {
  const GridShape& grid = choice.grid;
  const bool crowded = machine.is_cpu() && choice.threads * choice.ranks_on_node > machine.node.cores;
  const bool folds = grid.ranks() > kMostSingleRanks && !crowded;
  std::vector<Lane> replicas;
  for (int replica = 0; replica < grid.replicas; ++replica) {
    Lane lane;
    lane.replica = replica;
    lane.share = share_of(chunks, request.sample_lengths, replica, grid.replicas);
    const auto same = std::find_if(replicas.begin(), replicas.end(), [&](const Lane& other) {
      return folds && !other.is_root() && other.share == lane.share;
    });
    if (same != replicas.end()) {
      same->count += 1;
    } else {
      replicas.push_back(lane);
    }
  }
  in_stage_ = static_cast<int>(replicas.size());

  std::vector<int> node_cores;
  if (machine.is_cpu() && !folds) {
    const std::vector<double> rates = core_rates(machine, choice.threads);
    const int nodes = RankPlaces{grid.ranks(), choice.ranks_on_node}.nodes();
    for (int node = 0; node < nodes; ++node)
      node_cores.push_back(simulator.resource(fmt::format("cores of node {}", node), rates));
  }
  for (int stage = 0; stage < grid.stages; ++stage) {
    for (Lane lane : replicas) {
      lane.stage = stage;
      const int rank = rank_at(grid, {stage, lane.replica});
      const std::string name = fmt::format("rank {}", rank);
      lane.queue = simulator.queue(name);
      lane.reader = simulator.queue(name + " reads");
      lane.writer = simulator.queue(name + " writes");
      lane.saver = simulator.queue(name + " saves");
      lane.network = simulator.queue(name + " sends");
      lane.most = machine.is_cpu() ? choice.threads : 1;
      if (node_cores.empty()) {
        lane.most *= machine.share_together(choice.ranks_on_node);
      } else {
        lane.cores = node_cores[static_cast<std::size_t>(rank / choice.ranks_on_node)];
      }
      lanes_.push_back(lane);
    }
  }
}

std::vector<Lane*> Lanes::stage(int stage) {
  std::vector<Lane*> team;
  for (int i = 0; i < in_stage_; ++i) team.push_back(&at(stage, i));
  return team;
}

std::vector<Lane*> Lanes::world() {
  std::vector<Lane*> team;
  for (Lane& lane : lanes_) team.push_back(&lane);
  return team;
}

}  // namespace gptq
