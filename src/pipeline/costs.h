#pragma once

#include "pipeline/block_work.h"
#include "pipeline/machine.h"

namespace gptq {

/// How some ranks lie on nodes.
struct RankPlaces {
  int ranks = 1;
  int per_node = 1;  ///< of the ranks, at most

  int nodes() const { return (ranks + per_node - 1) / per_node; }
};

/// Bytes that all ranks together send.
struct LinkBytes {
  double node = 0;    ///< inside nodes
  double fabric = 0;  ///< between them

  void operator+=(const LinkBytes& other) {
    node += other.node;
    fabric += other.fabric;
  }
};

/// What work and messages cost on a machine.
class Costs {
 public:
  explicit Costs(const Machine& machine) : machine_(machine) {}

  /// Of one core, or one device, that computes alone.
  double seconds(const WorkList& work) const;
  /// A ring: each rank sends 2(R-1)/R of the bytes; and a message up and down a tree.
  double all_reduce(double bytes, const RankPlaces& places) const;
  double broadcast(double bytes, const RankPlaces& places) const;   ///< in pieces along a chain
  double all_gather(double bytes, const RankPlaces& places) const;  ///< bytes: of all ranks together
  double barrier(const RankPlaces& places) const;
  /// Each rank sends so many bytes, an equal part to each other, in so many rounds of a message to each.
  double all_to_all(double bytes_a_rank, double rounds, const RankPlaces& places) const;
  /// One rank to another, in the same node or not.
  const LinkRates& link(bool same_node) const { return same_node ? machine_.link : machine_.fabric; }

  /// What of a ring's messages stays inside nodes: of each of R ranks `bytes_a_rank`.
  static LinkBytes ring(double bytes_a_rank, const RankPlaces& places);
  static LinkBytes to_all(double bytes_a_rank, const RankPlaces& places);  ///< of all_to_all()

 private:
  double bandwidth(const RankPlaces& places) const;
  double latency(const RankPlaces& places) const;

  const Machine& machine_;
};

}  // namespace gptq
