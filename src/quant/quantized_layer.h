#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "kernels/kernels.h"

namespace gptq {

/// What one layer's quantization was like; a row of the report.
struct LayerStatistics {
  std::string module;
  std::int64_t block = 0;
  int bits = 0;
  std::int64_t group_size = 0;
  std::int64_t samples = 0;
  std::int64_t tokens = 0;
  double damp_percent = 0;
  std::int64_t damping_steps = 0;
  bool fallback = false;
  std::string fallback_reason;
  double loss = 0;                   ///< GPTQ's own: Σ (v-q)²/(2 U²), H scaled by 2/tokens
  double squared_weight_error = 0;   ///< |W-Q|²
  double squared_output_error = 0;   ///< tr((W-Q)H(W-Q)ᵀ)
  double relative_weight_error = 0;  ///< |W-Q|² / |W|²
  double relative_output_error = 0;  ///< tr((W-Q)H(W-Q)ᵀ) / tr(WHWᵀ); W is the corrected weight, if any
  std::string variant;               ///< plain | corrected | refined | corrected, refined
  double refinement_gain = 0;        ///< 1 − squared_output_error / what the solve had left
  std::int64_t raised_rows = 0;      ///< rows whose exact loss the refinement raised: it must not, 0
  double held_out_error = -1;  ///< Σ|W x − Q x̃|² / Σ|W x|² over the held-out samples; -1: there are none
  double seconds = 0;          ///< wall time of the layer's share of its stage group
};

/// Of layers that came from several ranks; those of a block stay in their order.
void sort_by_block(std::vector<LayerStatistics>& layers);

/// A quantized linear, in full on every rank that holds it.
struct QuantizedLayer {
  std::string module;  ///< full name, "model.layers.3.mlp.down_proj"
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  std::int64_t groups = 1;
  int bits = 4;
  std::vector<std::uint8_t> codes;     ///< (out, in)
  std::vector<f16> scales;             ///< (out, groups)
  std::vector<std::uint8_t> zeros;     ///< (out, groups)
  std::vector<std::int32_t> group_of;  ///< (in): g_idx
};

/// A view of the layer, for kernels.
QuantizedWeights weights_of(const QuantizedLayer& layer);

/// Panels of `SolveOptions::kPanelRows` rows per layer, dealt to ranks in contiguous runs of nearly equal
/// work.
struct RowRange {
  std::int64_t layer = 0;  ///< index in the stage group
  std::int64_t first = 0;
  std::int64_t count = 0;
};
/// Rows of each layer of the group that `rank` solves; together the ranks cover every row once.
std::vector<RowRange> rows_of_rank(const std::vector<std::int64_t>& out_features, int rank, int ranks);

struct SolvedRows {
  std::vector<RowRange> ranges;
  std::vector<QuantizedRows> rows;  ///< one a range
};
std::vector<std::byte> serialize(const SolvedRows& solved);
SolvedRows deserialize_rows(std::span<const std::byte> bytes);

}  // namespace gptq
