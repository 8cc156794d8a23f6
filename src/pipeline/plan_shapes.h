#pragma once

#include <cstdint>
#include <vector>

#include "config/job_config.h"
#include "model/model_shape.h"
#include "quant/recipe.h"

/// Sizes of a model as the plan needs them. Private to the plan.
namespace gptq {

/// File data or codes on a device while one weight is made of them (kTemporaryBytes of linear.cu); given back
/// when the weight is first used.
constexpr std::int64_t kConversionBytes = std::int64_t{16} << 20;

struct GroupShape {
  std::int64_t in_features = 0;
  std::int64_t outputs = 0;         ///< of all its layers together
  std::int64_t quantized_rows = 0;  ///< outputs of the layers to quantize; 0: no Hessian is needed
  std::int64_t quantized_layers = 0;
  std::int64_t cross_rows = 0;        ///< of the correction's sum; 0: there is none
  bool aims_at_residual = false;      ///< the correction does
  std::int64_t largest_layer = 0;     ///< elements of its largest weight
  std::int64_t scale_groups = 1;      ///< groups of columns that share a scale
  std::int64_t conversion_bytes = 0;  ///< of its quantized layers' codes, together
  std::int64_t experts = 0;           ///< all of the above is of one of them; 0: none
};

struct BlockShape {
  std::vector<GroupShape> groups;
  std::int64_t parameters = 0;         ///< of the linears
  std::int64_t active_parameters = 0;  ///< that a token passes
  std::int64_t expert_parameters = 0;  ///< of `parameters`, those of experts
  std::int64_t linears = 0;
  std::int64_t quantized_layers = 0;
  std::int64_t source_bytes = 0;  ///< in the files
  std::int64_t loaded_bytes = 0;  ///< in the host's memory: turned weights to quantize are f32
  std::int64_t saved_bytes = 0;   ///< ordinary_bytes minus output
  std::int64_t ordinary_bytes = 0;  ///< source as ordinary tensors
  std::int64_t expert_source_bytes = 0, expert_ordinary_bytes = 0, expert_saved_bytes = 0;
  std::int64_t padded_columns = 0;    ///< elements that rows of a multiple of 8 add
  std::int64_t widest_biased = 0;     ///< outputs of the widest linear with a bias; 0: none has one
  std::int64_t conversion_bytes = 0;  ///< of weights whose type when loaded is not the compute type

  std::int64_t widest_input = 0;   ///< columns of the widest step's input
  std::int64_t input_columns = 0;  ///< of all steps' inputs
  /// Of the compute type, a row: what attention and MLP leave beside the streams on their way.
  std::int64_t scratch_columns = 0;

  std::int64_t most_cross_rows() const;
};

/// Bytes by which a quantized head makes the output smaller; 0 where it stays as it is.
std::int64_t saved_by_head(const ModelShape& model, const JobConfig& job, const Recipe& recipe);

constexpr std::int64_t kAllExperts = std::int64_t{1} << 40;
/// What a block of this model takes in the work of this job. most_experts: of each kind; those that are in
/// memory at a time.
BlockShape measure_block(const ModelShape& model, const JobConfig& job, const Recipe& recipe,
                         std::int64_t block, DType compute, std::int64_t most_experts = kAllExperts);

}  // namespace gptq
