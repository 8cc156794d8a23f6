#include "pipeline/plan_shapes.h"

#include <algorithm>

#include "io/output_layout.h"
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

std::int64_t saved_by_head(const ModelShape& model, const JobConfig& job, const Recipe& recipe) {
  const LinearShape head = head_shape(model.architecture(), model.config());
  if (is_dequantized(job.output) || !recipe.quantizes_head(head.name)) return 0;
  return model.head_bytes() - quantized_bytes(head, recipe.section_of(head.name));
}

namespace {

/// Shapes of one block, group by group.
class BlockMeasure {
 public:
  BlockMeasure(const ModelShape& model, const JobConfig& job, const Recipe& recipe, std::int64_t block,
               DType compute, std::int64_t most_experts)
      : model_(model),
        job_(job),
        recipe_(recipe),
        prefix_(block_prefix(model.architecture(), block)),
        compute_(compute),
        most_experts_(most_experts) {}

  BlockShape measure(const BlockLayout& layout) {
    shape_.widest_input = layout.widest_step();
    shape_.scratch_columns = scratch_columns_of(model_.config(), layout);
    for (const BlockStep& step : layout.steps) {
      for (const StageGroup& group : step.groups) {
        GroupShape& g = shape_.groups.emplace_back();
        g.in_features = group.in_features;
        g.experts = model_.experts_of(group);
        g.scale_groups =
            scale_groups_of(group.in_features, recipe_.section());  // more, where a layer has more
        for (const LinearShape& layer : group.layers) add_layer(layer, g);
        add_correction(group, step, job_, recipe_, prefix_, g);
      }
      shape_.input_columns += step.width;
    }
    return std::move(shape_);
  }

 private:
  /// One layer's part in its group and block; in a group of experts the layer is there once an expert.
  void add_layer(const LinearShape& layer, GroupShape& g) {
    const std::string module = prefix_ + layer.name;
    const std::int64_t copies = std::max<std::int64_t>(1, std::min(g.experts, most_experts_));
    const std::int64_t parameters = layer.in_features * layer.out_features;
    const bool selected = recipe_.selects(module);
    // As ModelRotation says: turned weights that will be quantized are f32.
    const DType loaded_dtype = model_.rotated() && selected ? DType::f32 : model_.dtype_of(module);
    const std::int64_t stored = model_.stored_bytes(module, layer);
    const std::int64_t loaded = parameters * static_cast<std::int64_t>(size_of(loaded_dtype));
    shape_.parameters += copies * parameters;
    shape_.active_parameters += (g.experts > 0 ? model_.experts_per_token() : 1) * parameters;
    shape_.linears += copies;
    shape_.padded_columns += copies * ((8 - layer.in_features % 8) % 8) * layer.out_features;
    if (layer.bias) shape_.widest_biased = std::max(shape_.widest_biased, layer.out_features);
    if (loaded_dtype != compute_) shape_.conversion_bytes += copies * std::min(loaded, kConversionBytes);
    shape_.source_bytes += copies * stored;
    shape_.loaded_bytes += copies * loaded;
    if (g.experts > 0) {
      shape_.expert_parameters += copies * parameters;
      shape_.expert_source_bytes += copies * stored;
    }
    g.outputs += layer.out_features;
    g.largest_layer = std::max(g.largest_layer, parameters);
    if (!selected) return;
    const QuantizationSection options = recipe_.section_of(module);
    g.scale_groups = std::max(g.scale_groups, scale_groups_of(layer.in_features, options));
    g.quantized_rows += layer.out_features;
    g.quantized_layers += 1;
    g.conversion_bytes += std::min(parameters + 3 * g.scale_groups * layer.out_features, kConversionBytes);
    shape_.quantized_layers += copies;
    if (is_dequantized(job_.output)) return;
    const std::int64_t saved =
        copies * (model_.ordinary_bytes(module, layer) - quantized_bytes(layer, options));
    shape_.saved_bytes += saved;
    if (g.experts > 0) shape_.expert_saved_bytes += saved;
  }

  const ModelShape& model_;
  const JobConfig& job_;
  const Recipe& recipe_;
  std::string prefix_;
  DType compute_;
  std::int64_t most_experts_;
  BlockShape shape_;
};

}  // namespace

BlockShape measure_block(const ModelShape& model, const JobConfig& job, const Recipe& recipe,
                         std::int64_t block, DType compute, std::int64_t most_experts) {
  return BlockMeasure(model, job, recipe, block, compute, most_experts).measure(model.layout(block));
}

}  // namespace gptq
