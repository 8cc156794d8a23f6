#include "pipeline/plan_shapes.h"

#include <algorithm>

#include "io/output_layout.h"
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
void add_correction(const StageGroup& group, const JobConfig& job, const Recipe& recipe,
                    const std::string& prefix, GroupShape& shape) {
  if (!uses_reference(job)) return;
  if (std::none_of(group.layers.begin(), group.layers.end(), [&](const LinearShape& layer) {
        return recipe.selects(prefix + layer.name) && recipe.corrects(prefix + layer.name);
      }))
    return;
  if (recipe.section().correction_target == "output") {
    shape.cross_rows = shape.in_features;
  } else if (group.adds_to_residual) {
    shape.aims_at_residual = true;
    shape.cross_rows = shape.outputs;
  }
}

}  // namespace

std::int64_t BlockShape::widest_input() const {
  std::int64_t widest = 0;
  for (const GroupShape& group : groups) widest = std::max(widest, group.in_features);
  return widest;
}

std::int64_t BlockShape::most_cross_rows() const {
  std::int64_t most = 0;
  for (const GroupShape& group : groups) most = std::max(most, group.cross_rows);
  return most;
}

std::int64_t BlockShape::scratch_columns() const {
  std::int64_t columns = 0;
  for (std::size_t i = 0; i < groups.size(); i += 2) columns += groups[i].outputs;
  return columns;
}

std::int64_t saved_by_head(const ModelShape& model, const JobConfig& job, const Recipe& recipe) {
  const LinearShape head = head_shape(model.architecture(), model.config());
  if (is_dequantized(job.output) || !recipe.quantizes_head(head.name)) return 0;
  return model.head_bytes() - quantized_bytes(head, recipe.section_of(head.name));
}

BlockShape measure_block(const ModelShape& model, const JobConfig& job, const Recipe& recipe,
                         std::int64_t block, DType compute) {
  BlockShape shape;
  const std::string prefix = block_prefix(model.architecture(), block);
  for (const StageGroup& group : model.groups(block)) {
    GroupShape& g = shape.groups.emplace_back();
    g.in_features = group.in_features;
    g.scale_groups = scale_groups_of(group.in_features, recipe.section());  // more, where a layer has more
    for (const LinearShape& layer : group.layers) {
      const std::int64_t parameters = layer.in_features * layer.out_features;
      const bool selected = recipe.selects(prefix + layer.name);
      const DType dtype = model.dtype_of(prefix + layer.name);
      const DType loaded_dtype = model.rotated() && selected ? DType::f32 : dtype;  // as ModelRotation says
      const std::int64_t bytes = parameters * static_cast<std::int64_t>(size_of(dtype));
      const std::int64_t loaded = parameters * static_cast<std::int64_t>(size_of(loaded_dtype));
      shape.parameters += parameters;
      shape.linears += 1;
      shape.padded_columns += (8 - layer.in_features % 8) % 8 * layer.out_features;
      if (layer.bias) shape.widest_biased = std::max(shape.widest_biased, layer.out_features);
      if (loaded_dtype != compute) shape.conversion_bytes += std::min(loaded, kConversionBytes);
      shape.source_bytes += bytes;
      shape.loaded_bytes += loaded;
      g.outputs += layer.out_features;
      g.largest_layer = std::max(g.largest_layer, parameters);
      if (!selected) continue;
      const QuantizationSection options = recipe.section_of(prefix + layer.name);
      g.scale_groups = std::max(g.scale_groups, scale_groups_of(layer.in_features, options));
      g.quantized_rows += layer.out_features;
      g.quantized_layers += 1;
      g.conversion_bytes += std::min(parameters + 3 * g.scale_groups * layer.out_features, kConversionBytes);
      shape.quantized_layers += 1;
      if (!is_dequantized(job.output)) shape.saved_bytes += bytes - quantized_bytes(layer, options);
    }
    add_correction(group, job, recipe, prefix, g);
  }
  return shape;
}

}  // namespace gptq
