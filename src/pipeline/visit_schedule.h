#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "pipeline/grid_shape.h"

namespace gptq {

/// One piece of a stage's work: what it does to one block before it turns to the next.
struct Visit {
  enum class Kind {
    reference,  ///< all chunks through the block's original weights; the inputs of its steps are kept
    quantize,   ///< the recipe's sums, factors and solves of this block; the stage holds it
    help,       ///< another stage holds the block; this one solves its part of the rows
  };
  std::int64_t block = 0;
  int recipe = 0;  ///< 0 in a reference pass, which serves all recipes
  Kind kind = Kind::quantize;

  bool operator==(const Visit&) const = default;
};

/// All that decides the order of visits.
struct ScheduleShape {
  GridShape grid;
  std::int64_t first_block = 0;      ///< origin: the least of `starts`; it is the first stage's
  std::int64_t blocks = 0;           ///< of the model; block number `blocks` is the head
  std::vector<std::int64_t> starts;  ///< of each recipe the block it begins with; end_block(): it is finished
  bool full_precision = false;       ///< every step's input comes from original weights: a reference pass
  bool has_reference = false;        ///< quantized weights in front, and a reference pass beside
  bool quantizes_head = false;
  /// One recipe, one stage at a time: the others help in its solves.
  bool helpers = false;
};

/// The first block that is not visited.
std::int64_t end_block(const ScheduleShape& shape);

/// What a stage does, in its order. Recipe r's visit of block b needs its visit of b-1, on the stage before;
/// so does the reference pass. A reference pass comes before the recipes that use it. Throws InternalError
/// where the shape contradicts itself. The executor walks it, the simulator expands it.
std::vector<Visit> visits_of_stage(const ScheduleShape& shape, int stage);

/// A round is one block of every stage, by all recipes. Behind a round every stage has finished the blocks
/// below the next round's first one, of every recipe: there a job may be cut.
std::int64_t rounds(const ScheduleShape& shape);
std::int64_t round_of(const ScheduleShape& shape, std::int64_t block);
/// Of each round: how many of the stage's visits lie before its end. Every stage has the same number of
/// rounds, one that has nothing to do in a round the same number twice.
std::vector<std::size_t> cuts(const ScheduleShape& shape, const std::vector<Visit>& visits);

}  // namespace gptq
