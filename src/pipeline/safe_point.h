#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "pipeline/activations.h"
#include "quant/hessian.h"
#include "quant/quantized_layer.h"

namespace gptq {

/// What the calibration says of a stage group's input.
struct StageSums {
  HessianSum hessian;
  CrossSum cross;  ///< n = 0: there is no full-precision stream
};

/// A part of the sums: which chunks are in them already.
struct PartialSum {
  std::vector<std::int64_t> panels;         ///< this rank's part, in host memory; empty: nothing was summed
  std::vector<std::int64_t> cross;          ///< likewise, of the cross sum
  std::vector<std::int64_t> chunks;         ///< in `panels`, global indices
  std::vector<std::int64_t> done_anywhere;  ///< chunks in any rank's part: nobody sums them again
};

struct QuantizedBlock {
  std::vector<QuantizedLayer> layers;
  std::vector<LayerStatistics> statistics;
};

/// The present block as an earlier attempt left it.
struct BlockStart {
  std::int64_t group = 0;  ///< the stage group that comes next; for groups > 0 the activations hold its input
  QuantizedBlock finished;  ///< layers of the groups before
  PartialSum sum;           ///< of that group
  RowStore hidden_before;   ///< the block's input; only without true_sequential and for groups > 0
};

/// A place between two steps where a job may be stopped and taken up again. All ranks pass the same safe
/// points in the same order; those that do not hold the block have none of the state. Everything is borrowed
/// for the duration of the call.
struct SafePoint {
  std::int64_t block = 0;                    ///< the position: this block's ...
  std::int64_t group = 0;                    ///< ... stage group comes next or is being summed
  const Activations* activations = nullptr;  ///< none for round-to-nearest
  std::int64_t x_width = 0;  ///< 0: x is not part of the state, it follows from the hidden states
  const RowStore* hidden_before = nullptr;
  const Activations* reference = nullptr;  ///< the full-precision stream; null: there is none
  std::int64_t reference_x_width = 0;      ///< like x_width
  /// The full-precision stream of the held-out samples alone, before the block for stage group 0 and behind
  /// it for the others; null: there is none.
  const Activations* held_out = nullptr;
  const StageSums* sums = nullptr;           ///< this rank's part; null: outside a sum
  std::vector<std::int64_t> chunks;          ///< in `sums`
  const QuantizedBlock* finished = nullptr;  ///< of the present block
  bool keeps_finished = false;               ///< this rank's state has them: the first that holds the block
};

using OnSafePoint = std::function<void(const SafePoint&)>;

}  // namespace gptq
