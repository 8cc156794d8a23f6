#pragma once

#include <cstdint>

/// The softmax of tiled attention and of the loss.
namespace gptq {

/// Stands for minus infinity: lower than any score, but differences of it are finite.
constexpr float kLowestScore = -1e30f;

/// Raw scores q·k of `heads` query heads of `queries` rows each, one head below the other, against `keys`
/// keys. The token of a head's row i has position first_query + i, that of column j has first_key + j.
struct ScoreTile {
  float* scores = nullptr;  ///< (heads * queries, keys), dense; masked ones may be overwritten
  std::int64_t heads = 0;
  std::int64_t queries = 0;
  std::int64_t keys = 0;  ///< a multiple of kWeightColumns
  std::int64_t first_query = 0;
  std::int64_t first_key = 0;
  std::int64_t window = 0;  ///< 0: none
  float scale = 1;          ///< weight = exp(scale * score)

  static constexpr std::int64_t kWeightColumns = 128;
};

struct SoftmaxTable {
  /// One step of the running softmax, row by row: weight = exp(scale·(score − maximum)), 0 where masked;
  /// maximum, sum and the output rows so far (rows, head_dim) are brought to the new maximum. Start:
  /// kLowestScore, 0, 0. The weights come as dense matrices (rows, kWeightColumns), one after the other.
  void (*step_f32)(const ScoreTile& tile, float* maximum, float* sum, float* output, std::int64_t head_dim,
                   float* weights);
  void (*step_bf16)(const ScoreTile& tile, float* maximum, float* sum, float* output, std::int64_t head_dim,
                    std::uint16_t* weights);
  /// x = cap * tanh(scale * x / cap)
  void (*soft_cap)(float* x, float scale, float cap, std::int64_t n);
  /// x = scale * x + bias, element by element
  void (*add_bias)(float* x, float scale, const float* bias, std::int64_t n);
  /// Adds n logits to a running (maximum, sum of exp(logit - maximum)). Start: kLowestScore, 0.
  void (*log_sum_step)(const float* logits, std::int64_t n, float* maximum, double* sum);
};

const SoftmaxTable& softmax_table();  ///< this machine's

}  // namespace gptq
