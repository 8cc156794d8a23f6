#pragma once

#include <functional>
#include <string>
#include <vector>

#include "model/decoder_block.h"
#include "pipeline/stage_solver.h"

namespace gptq {

/// Takes this rank's samples through one block and quantizes its layers on the way: stage group by stage
/// group with quantized weights in front (true_sequential), or all Hessians from the block's original weights
/// first.
class BlockQuantizer {
 public:
  using OnLayers = std::function<void(const std::vector<LayerStatistics>&)>;

  BlockQuantizer(const ModelWeights& model, const Recipe& recipe, StageSolver& solver, Backend& backend,
                 PhaseClock& phases, OnLayers on_layers, OnSafePoint on_safe_point);

  /// activations: hidden states entering the block, or what `start` says; afterwards those leaving it,
  /// through the quantized weights. Passes a safe point before every stage group but the first one run, and
  /// inside the sums.
  QuantizedBlock run(const BlockWeights& weights, DecoderBlock& block, Activations& activations,
                     BlockStart start);
  /// Quantizes without calibration: nothing is propagated.
  QuantizedBlock round_to_nearest(const BlockWeights& weights);

 private:
  std::vector<float> enter(DecoderBlock& block, Activations& activations, std::int64_t block_index);
  std::vector<float> advance(std::int64_t group, DecoderBlock& block, Activations& activations,
                             std::int64_t block_index);
  std::vector<float> column_maximum(std::int64_t group, const DecoderBlock& block, Activations& activations,
                                    std::int64_t block_index);
  DeviceBuffer zeros(std::int64_t width);
  std::vector<float> finite_maximum(const DeviceBuffer& maximum, std::int64_t group, Activations& activations,
                                    std::int64_t block_index);
  [[noreturn]] void blame_a_sample(std::int64_t group, std::int64_t width, Activations& activations,
                                   std::int64_t block_index);
  std::vector<LayerToQuantize> chosen_layers(std::int64_t group, const BlockWeights& weights,
                                             const DecoderBlock* block) const;
  void quantize_group(const SafePoint& here, const BlockWeights& weights, const DecoderBlock& block,
                      Activations& activations, std::vector<float> maximum, PartialSum before,
                      QuantizedBlock& result);
  void use_quantized(std::size_t first_layer, const QuantizedBlock& quantized, std::int64_t block_index,
                     DecoderBlock& block);

  const ModelWeights& model_;
  const Recipe& recipe_;
  StageSolver& solver_;
  Backend& backend_;
  PhaseClock& phases_;
  OnLayers on_layers_;
  OnSafePoint on_safe_point_;
};

}  // namespace gptq
