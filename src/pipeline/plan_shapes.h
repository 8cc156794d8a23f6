#pragma once

#include <cstdint>
#include <vector>

#include "config/job_config.h"
#include "model/weights.h"
#include "quant/recipe.h"

/// Sizes of a model as the plan needs them. Private to the plan.
namespace gptq {

struct GroupShape {
  std::int64_t in_features = 0;
  std::int64_t outputs = 0;         ///< of all its layers together
  std::int64_t quantized_rows = 0;  ///< outputs of the layers to quantize; 0: no Hessian is needed
  std::int64_t quantized_layers = 0;
  std::int64_t largest_layer = 0;  ///< elements of its largest weight
  std::int64_t scale_groups = 1;   ///< groups of columns that share a scale
};

struct BlockShape {
  std::vector<GroupShape> groups;
  std::int64_t parameters = 0;  ///< of the linears
  std::int64_t linears = 0;
  std::int64_t quantized_layers = 0;
  std::int64_t source_bytes = 0;
  std::int64_t saved_bytes = 0;     ///< source minus output
  std::int64_t padded_columns = 0;  ///< elements that rows of a multiple of 8 add
  std::int64_t widest_biased = 0;   ///< outputs of the widest linear with a bias; 0: none has one
  bool converted = false;           ///< some weight's type in the file is not the compute type

  std::int64_t widest_input() const;
  /// Outputs of the groups that leave something beside the residual stream: q, k, v, gate, up.
  std::int64_t scratch_columns() const;
};

BlockShape measure_block(const ModelWeights& model, const Recipe& recipe, std::int64_t block, DType compute);

}  // namespace gptq
