#pragma once

#include <string>
#include <vector>

#include "config/job_config.h"
#include "kernels/kernels.h"

namespace gptq {

/// Which layers are quantized, and how. Made once from the job's configuration.
class Recipe {
 public:
  /// Throws UsageError for an include/exclude text that is no regex.
  explicit Recipe(const QuantizationSection& section);

  /// module: full name, "model.layers.3.mlp.down_proj". A text of include/exclude matches if it equals the
  /// full name or the name inside the block, or if it is found in the full name as an ECMAScript regex.
  bool selects(const std::string& module) const;
  const QuantizationSection& section() const { return section_; }
  /// The section's values for one layer, after the rules that match it.
  QuantizationSection section_of(const std::string& module) const;

 private:
  struct Pattern;
  QuantizationSection section_;
  std::vector<Pattern> include_;
  std::vector<Pattern> exclude_;

 public:
  ~Recipe();
  Recipe(Recipe&&) noexcept;
};

/// How the rows of a layer with these values are solved.
SolveOptions solve_options(const QuantizationSection& section);

/// Layers of a stage group with equal signatures (group_size, desc_act, act_group_aware, static_groups,
/// damp_percent, damp_auto_increment) share the order of columns, the groups and the factor.
bool same_columns(const QuantizationSection& a, const QuantizationSection& b);

}  // namespace gptq
