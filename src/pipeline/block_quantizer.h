#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "pipeline/block_stream.h"
#include "pipeline/stage_solver.h"
#include "pipeline/stage_sums.h"

namespace gptq {

/// What the correction aims at in the groups of a step; nothing: it leaves them alone. correction_target
/// residual is for layers that write to the residual stream. Where a norm or a factor stands between, they
/// aim at their own output instead.
std::optional<CorrectionTarget> correction_target_of(const Recipe& recipe, const BlockStep& step);
/// The step whose input the full-precision stream holds when this one's turn comes: the next one, where the
/// step's layer aims at the residual stream behind it. And that input's width; 0 behind the last step.
std::int64_t reference_step(const Recipe& recipe, const BlockLayout& layout, std::int64_t step);
std::int64_t reference_width(const Recipe& recipe, const BlockLayout& layout, std::int64_t step);

/// Takes this rank's samples through one block and quantizes its layers on the way: step by step with
/// quantized weights in front (true_sequential), or all Hessians from the block's original weights first. A
/// full-precision stream, if there is one, goes beside through the original weights.
class BlockQuantizer {
 public:
  using OnLayers = std::function<void(const std::vector<LayerStatistics>&)>;
  /// Takes a stream's chunks through the pass behind which they leave the block, letting each go when it is
  /// done; no pass: they have made it already.
  using LetGo = std::function<void(Activations& stream, const std::function<void()>& pass)>;

  /// What all blocks have in common. Borrowed.
  struct Tools {
    const ModelWeights& model;
    const Recipe& recipe;
    StageSummer& summer;
    StageSolver& solver;
    Backend& backend;
    Communicator& comm;  ///< of the ranks that hold the block
    PhaseClock& phases;
    bool holds_out = false;  ///< some sample of some rank is held out
    OnLayers on_layers;
    OnSafePoint on_safe_point;
    std::function<void()> on_entered;  ///< the first step's input is there, and nothing has changed yet
    LetGo let_go;
  };
  /// The streams of hidden states entering the block; afterwards those leaving it.
  struct Streams {
    Activations& quantized;            ///< through the quantized weights
    Activations* reference = nullptr;  ///< through the original ones; null: there is none
    Activations* held_out = nullptr;   ///< the same, of the held-out samples alone
  };

  BlockQuantizer(const Tools& tools, const BlockWeights& weights) : tools_(tools), weights_(weights) {}

  /// block: with the original weights; left with the quantized ones. Begins where `start` says. Passes a safe
  /// point before every stage group but the first one run, and inside the sums.
  QuantizedBlock run(DecoderBlock& block, Streams streams, BlockStart start);
  /// Quantizes without calibration: nothing is propagated.
  QuantizedBlock round_to_nearest();

 private:
  struct Passage;
  const BlockLayout& layout() const { return tools_.model.layout(weights_.block); }
  bool reference_is_ahead(std::int64_t step) const;
  void pass_held_out(DecoderBlock& block, Activations& stream);
  void advance(BlockStream& stream, std::int64_t step, bool leaves, std::vector<float>& maximum);
  void pass_again(Passage& passage, const RowStore& before, const QuantizedBlock& quantized);
  SafePoint safe_point(const Streams& streams, std::int64_t group, const RowStore* before,
                       const QuantizedBlock& finished) const;
  StageInput stage_input(Passage& passage, std::int64_t group, const std::vector<LayerToQuantize>& layers);
  void quantize_group(Passage& passage, const SafePoint& here, PartialSum before, QuantizedBlock& result);
  /// Of the step's layers, or all.
  void use_quantized(const BlockStep* step, const QuantizedBlock& quantized, DecoderBlock& block);
  static void append(SolvedStage solved, QuantizedBlock& result);

  const Tools& tools_;
  const BlockWeights& weights_;
};

}  // namespace gptq
