#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/architectures.h"

namespace gptq {

/// Layers of a block that share one input, and so one Hessian.
struct StageGroup {
  std::string name;               ///< "attention_in", "attention_out", "mlp_in", "mlp_out", "block_in"
  std::int64_t first_column = 0;  ///< its input is these columns of its step's
  std::int64_t in_features = 0;
  std::vector<LinearShape> layers;
  /// What its layer gives is added to the residual stream as it is: no norm or factor stands between.
  bool adds_to_residual = false;
};

/// What a block does between two states (hidden, x): its groups' inputs lie side by side in x.
struct BlockStep {
  std::int64_t width = 0;  ///< columns of x
  std::vector<StageGroup> groups;
  bool writes_residual = false;  ///< its only group's only layer does; the other steps do not look at hidden
};

/// One block as steps, in the order of data flow.
///
///     sequential:          {q,k,v} → {o} → {gate,up} → {down}
///     parallel:            {q,k,v,gate,up} → {o} → {down}, the last two of [attention | mlp]
///     parallel_two_norms:  {q,k,v},{gate,up} → {o} → {down}, likewise
///
/// Positions in a checkpoint, `group` everywhere in the pipeline: groups counted over all steps.
struct BlockLayout {
  std::vector<BlockStep> steps;
  std::vector<TensorShape> norms;  ///< tensors of the block beside its linears; names inside it

  std::int64_t groups() const;
  std::int64_t step_of(std::int64_t group) const;  ///< groups(): one behind the last step
  std::int64_t first_group(std::int64_t step) const;
  const StageGroup& group(std::int64_t group) const;
  std::int64_t widest_step() const;
  std::vector<LinearShape> layers() const;  ///< of all groups, in order
};

BlockLayout make_layout(const Architecture& architecture, const ModelConfig& config, std::int64_t block);

}  // namespace gptq
