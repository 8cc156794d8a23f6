#pragma once

#include <cstdint>

#include "base/error.h"

namespace gptq {

/// How ranks are laid out: every stage holds some of the blocks, and each of its replicas some of the
/// samples.
struct GridShape {
  int stages = 1, replicas = 1;

  int ranks() const { return stages * replicas; }
  bool operator==(const GridShape&) const = default;
};

struct GridPlace {
  int stage = 0, replica = 0;

  bool operator==(const GridPlace&) const = default;
};

/// Replicas of a stage are neighbours, so that their sums stay inside a node where they can.
inline GridPlace place_of(const GridShape& shape, int rank) {
  GPTQ_EXPECT(rank >= 0 && rank < shape.ranks());
  return {rank / shape.replicas, rank % shape.replicas};
}

inline int rank_at(const GridShape& shape, const GridPlace& place) {
  return place.stage * shape.replicas + place.replica;
}

/// Blocks go to the stages in turn. origin: the first block of this attempt; the head counts as the block
/// behind the last one.
inline int stage_of_block(const GridShape& shape, std::int64_t origin, std::int64_t block) {
  GPTQ_EXPECT(block >= origin);
  return static_cast<int>((block - origin) % shape.stages);
}

}  // namespace gptq
