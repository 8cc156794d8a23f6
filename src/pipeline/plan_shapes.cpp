#include "pipeline/plan_shapes.h"

#include <algorithm>

#include "io/output_layout.h"
#include "model/model_rotation.h"
#include "model/source_tensors.h"
#include "pipeline/block_quantizer.h"
#include "pipeline/job_context.h"
#include "quant/packing.h"

namespace gptq {
namespace {

std::int64_t scale_groups_of(std::int64_t in_features, const QuantizationSection& options) {
  const std::int64_t width = options.group_size < 0 ? in_features : options.group_size;
  return (in_features + width - 1) / width;
}

std::int64_t quantized_bytes(const LinearShape& layer, const QuantizationSection& options) {
  const std::int64_t groups = scale_groups_of(layer.in_features, options);
  return 4 * packed_words(layer.in_features, options.bits) * layer.out_features +
         4 * packed_words(layer.out_features, options.bits) * groups + 2 * groups * layer.out_features +
         4 * layer.in_features;
}

/// Where some layer of the group is corrected: what its sums look like.
void add_correction(const StageGroup& group, const BlockStep& step, const JobConfig& job,
                    const Recipe& recipe, const std::string& prefix, GroupShape& shape) {
  const std::optional<CorrectionTarget> target = correction_target_of(recipe, step);
  if (!uses_reference(job) || !target) return;
  if (std::none_of(group.layers.begin(), group.layers.end(), [&](const LinearShape& layer) {
        return recipe.selects(prefix + layer.name) && recipe.corrects(prefix + layer.name);
      }))
    return;
  shape.aims_at_residual = target == CorrectionTarget::residual;
  shape.cross_rows = shape.aims_at_residual ? shape.outputs : shape.in_features;
}

/// Outputs of the steps that leave something beside the residual stream (q, k, v, gate, up); fused ones once
/// more where heads are copied out of them; and what waits for its norm or factor, in f32.
std::int64_t scratch_columns_of(const ModelConfig& config, const BlockLayout& layout) {
  std::int64_t columns = 0;
  for (const BlockStep& step : layout.steps) {
    if (step.writes_residual) continue;
    for (const StageGroup& group : step.groups) {
      for (const LinearShape& layer : group.layers) columns += layer.out_features;
    }
  }
  if (config.qkv_form == QkvForm::by_head || config.qkv_form == QkvForm::by_group)
    columns += (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim;
  if (!layout.steps.back().groups.front().adds_to_residual) columns += 2 * config.hidden_size;
  return columns;
}

}  // namespace

std::int64_t BlockShape::most_cross_rows() const {
  std::int64_t most = 0;
  for (const GroupShape& group : groups) most = std::max(most, group.cross_rows);
  return most;
}

std::int64_t saved_by_head(const ModelWeights& model, const JobConfig& job, const Recipe& recipe) {
  const LinearShape head = head_shape(model.architecture(), model.config());
  if (is_dequantized(job.output) || !recipe.quantizes_head(head.name)) return 0;
  const auto bytes = static_cast<std::int64_t>(model.tensors().info(model.head_source()).bytes);
  return bytes - quantized_bytes(head, recipe.section_of(head.name));
}

namespace {

/// One layer's part in its group and block.
void add_layer(const LinearShape& layer, const std::string& module, const ModelWeights& model,
               const JobConfig& job, const Recipe& recipe, DType compute, GroupShape& g, BlockShape& shape) {
  const std::int64_t parameters = layer.in_features * layer.out_features;
  const std::string weight = module + ".weight";
  const bool is_stored = model.tensors().contains(weight);
  const DType dtype = is_stored ? model.tensors().info(weight).dtype : model.config().dtype;
  const DType loaded_dtype =
      model.rotation() == nullptr ? dtype : model.rotation()->weight_type(module, dtype);
  const std::int64_t bytes = parameters * static_cast<std::int64_t>(size_of(dtype));
  const std::int64_t loaded = parameters * static_cast<std::int64_t>(size_of(loaded_dtype));
  shape.parameters += parameters;
  shape.linears += 1;
  shape.padded_columns += (8 - layer.in_features % 8) % 8 * layer.out_features;
  if (layer.bias) shape.widest_biased = std::max(shape.widest_biased, layer.out_features);
  if (loaded_dtype != compute) shape.conversion_bytes += std::min(loaded, kConversionBytes);
  shape.source_bytes += is_stored ? static_cast<std::int64_t>(model.tensors().stored_bytes(weight)) : bytes;
  shape.loaded_bytes += loaded;
  g.outputs += layer.out_features;
  g.largest_layer = std::max(g.largest_layer, parameters);
  if (!recipe.selects(module)) return;
  const QuantizationSection options = recipe.section_of(module);
  g.scale_groups = std::max(g.scale_groups, scale_groups_of(layer.in_features, options));
  g.quantized_rows += layer.out_features;
  g.quantized_layers += 1;
  g.conversion_bytes += std::min(parameters + 3 * g.scale_groups * layer.out_features, kConversionBytes);
  shape.quantized_layers += 1;
  if (!is_dequantized(job.output)) shape.saved_bytes += bytes - quantized_bytes(layer, options);
}

}  // namespace

BlockShape measure_block(const ModelWeights& model, const JobConfig& job, const Recipe& recipe,
                         std::int64_t block, DType compute) {
  BlockShape shape;
  const BlockLayout& layout = model.layout(block);
  const std::string prefix = block_prefix(model.architecture(), block);
  shape.widest_input = layout.widest_step();
  shape.scratch_columns = scratch_columns_of(model.config(), layout);
  for (const BlockStep& step : layout.steps) {
    for (const StageGroup& group : step.groups) {
      GroupShape& g = shape.groups.emplace_back();
      g.in_features = group.in_features;
      g.scale_groups = scale_groups_of(group.in_features, recipe.section());  // more, where a layer has more
      for (const LinearShape& layer : group.layers)
        add_layer(layer, prefix + layer.name, model, job, recipe, compute, g, shape);
      add_correction(group, step, job, recipe, prefix, g);
    }
  }
  return shape;
}

}  // namespace gptq
