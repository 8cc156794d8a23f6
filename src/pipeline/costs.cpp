#include "pipeline/costs.h"

#include <algorithm>
#include <cmath>

namespace gptq {

double Costs::seconds(const WorkList& work) const {
  double sum = 0;
  for (const WorkItem& item : work)
    if (item.calls > 0) sum += item.calls * machine_.seconds(item.kernel, item.each);
  return sum;
}

/// What a rank sends and takes while all others do. A device's collectives (NCCL) use all links of a node at
/// once; MPI's ring leaves a node on one.
double Costs::bandwidth(const RankPlaces& places) const {
  const auto on_node = static_cast<double>(std::min(places.ranks, places.per_node));
  const double inside = std::min(machine_.link.bandwidth, machine_.link.shared / on_node);
  if (places.nodes() == 1) return inside;
  const double between = machine_.is_cpu() ? machine_.fabric.bandwidth : machine_.fabric.shared;
  return std::min(inside, between);
}

double Costs::latency(const RankPlaces& places) const {
  return places.nodes() > 1 ? machine_.fabric.latency : machine_.link.latency;
}

double Costs::all_reduce(double bytes, const RankPlaces& places) const {
  if (places.ranks == 1) return 0;
  const double ranks = places.ranks;
  double rate = bandwidth(places);
  const LinkRates& slowest = places.nodes() > 1 ? machine_.fabric : machine_.link;
  if (slowest.reduce > 0) rate = std::min(rate, slowest.reduce);
  return 2 * (ranks - 1) / ranks * bytes / rate + 2 * std::ceil(std::log2(ranks)) * latency(places);
}

double Costs::broadcast(double bytes, const RankPlaces& places) const {
  if (places.ranks == 1) return 0;
  return bytes / bandwidth(places) + std::ceil(std::log2(places.ranks)) * latency(places);
}

double Costs::all_gather(double bytes, const RankPlaces& places) const {
  if (places.ranks == 1) return 0;
  const double ranks = places.ranks;
  return (ranks - 1) / ranks * bytes / bandwidth(places) + std::ceil(std::log2(ranks)) * latency(places);
}

double Costs::barrier(const RankPlaces& places) const {
  return places.ranks == 1 ? 0 : 2 * std::ceil(std::log2(places.ranks)) * latency(places);
}

double Costs::all_to_all(double bytes_a_rank, double rounds, const RankPlaces& places) const {
  if (places.ranks == 1) return 0;
  const double ranks = places.ranks, on_node = std::min(places.ranks, places.per_node);
  const double inside = std::min(machine_.link.bandwidth, machine_.link.shared / on_node);
  double seconds = bytes_a_rank * (on_node - 1) / ranks / inside;
  // All ranks of a node leave it together.
  if (places.nodes() > 1) {
    const double between = std::min(machine_.fabric.bandwidth, machine_.fabric.shared / on_node);
    seconds = std::max(seconds, bytes_a_rank * (ranks - on_node) / ranks / between);
  }
  return seconds + rounds * (ranks - 1) * latency(places);
}

LinkBytes Costs::to_all(double bytes_a_rank, const RankPlaces& places) {
  const double ranks = places.ranks, on_node = std::min(places.ranks, places.per_node);
  return {bytes_a_rank * (on_node - 1), bytes_a_rank * (ranks - on_node)};
}

LinkBytes Costs::ring(double bytes_a_rank, const RankPlaces& places) {
  if (places.ranks == 1) return {};
  const double all = bytes_a_rank * places.ranks;
  const double crossing = places.nodes() == 1 ? 0 : static_cast<double>(places.nodes()) / places.ranks;
  return {all * (1 - crossing), all * crossing};
}

}  // namespace gptq
