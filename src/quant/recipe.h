#pragma once

#include <string>
#include <vector>

#include "config/job_config.h"
#include "kernels/kernels.h"

namespace gptq {

/// Which layers are quantized, and how. Made once from the job's configuration.
class Recipe {
 public:
  /// Throws UsageError for a text of include, exclude, correction_layers or dynamic that is no regex, and for
  /// a candidate of best_of that is none.
  explicit Recipe(const QuantizationSection& section);

  /// module: full name, "model.layers.3.mlp.down_proj". A layer of a block is quantized if include is empty
  /// or matches it, modules_in_block_to_quantize is empty or names it, its block is one of the first
  /// num_layers, exclude does not match it, and the first rule of dynamic that does has no "-:". A text of
  /// include/exclude matches if it equals the full name or the name inside the block, or if it is found in
  /// the full name as an ECMAScript regex; a rule of dynamic matches from the name's start, as Python's
  /// re.match does.
  bool selects(const std::string& module) const;
  /// The head is quantized where lm_head asks for it and neither exclude nor dynamic keeps it.
  bool quantizes_head(const std::string& head = "lm_head") const;

  /// What holds for all layers that no rule names.
  const QuantizationSection& section() const { return section_; }
  /// The section's values for one layer, after mlp_bits and mlp_group_size (of modules with a part "mlp"),
  /// module_bits and dynamic, each of which wins over those before it.
  QuantizationSection section_of(const std::string& module) const;
  /// Whether a layer's weights are corrected for the errors before it (correction_alpha, correction_layers).
  bool corrects(const std::string& module) const;

 private:
  struct Pattern;
  struct Rule;
  const Rule* rule_of(const std::string& module) const;
  bool is_kept(const std::string& module) const;

  QuantizationSection section_;
  std::vector<Pattern> include_;
  std::vector<Pattern> exclude_;
  std::vector<Pattern> corrected_;
  std::vector<Rule> dynamic_;

 public:
  ~Recipe();
  Recipe(Recipe&&) noexcept;
};

/// "model.layers.3.mlp.down_proj" → "mlp.down_proj": what follows the first purely numeric part; all of it
/// where there is none.
std::string name_inside_block(const std::string& module);

/// The name of module_bits that holds for a module: its full name, its name inside the block, or the last
/// parts of either; the longest of several. Null if there is none.
const std::string* name_in_module_bits(const QuantizationSection& section, const std::string& module);

/// How the rows of a layer with these values are solved.
SolveOptions solve_options(const QuantizationSection& section);

/// Layers of a stage group with equal signatures (group_size, desc_act, act_group_aware, static_groups,
/// damp_percent, damp_auto_increment) share the order of columns, the groups and the factor.
bool same_columns(const QuantizationSection& a, const QuantizationSection& b);

}  // namespace gptq
