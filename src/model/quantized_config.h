#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "config/job_config.h"
#include "quant/packing.h"

namespace gptq {

class JsonFields;

/// How one module's weights are stored.
struct QuantizedForm {
  int bits = 4;
  std::int64_t group_size = 128;  ///< -1: one group
  bool sym = true;
  bool desc_act = false;

  bool operator==(const QuantizedForm&) const = default;
};

/// Rules of `dynamic` in their order, compiled.
class QuantizedRules;

/// quantization_config of a model that is GPTQ-quantized (read by `eval`, `verify` and `inspect`): what holds
/// for all modules, and what holds for single ones, in either way the field has: rules (`dynamic`, as in
/// GPTQModel and vLLM) or a list of every module's bits (`quant_method` mixed_gptq, as in OneComp).
struct QuantizedConfig : QuantizedForm {
  bool present = false;
  CheckpointFormat format = CheckpointFormat::gptq;
  bool trits = false;    ///< meta.trits: three levels
  bool lm_head = false;  ///< the head is quantized
  bool mixed = false;    ///< quant_method mixed_gptq
  std::shared_ptr<const QuantizedRules> rules;
  /// mixed_gptq: of every block the names inside it (or how they start, or "_all"); the first that fits
  /// counts.
  using ListedForms = std::vector<std::pair<std::string, QuantizedForm>>;
  std::vector<ListedForms> of_block;

  /// What holds for a module (its full name), whether it is quantized or not.
  QuantizedForm form_of(const std::string& module) const;
  /// The module is said to stay as it is.
  bool skips(const std::string& module) const;
  /// Of all modules, and those of rules that no module may have.
  std::set<int> all_bits() const;
};

/// How a layer with these values is stored. Three levels lie around the zero 1 where two bits have theirs at
/// 2, so loaders must read the zeros: they are told that the grid is asymmetric.
QuantizedForm stored_form(const QuantizationSection& section);

/// fields: all of config.json. Not present where the method is one of fp8 weights (fp8_config.h). Throws
/// InputError for what this program cannot read.
QuantizedConfig read_quantized_config(const JsonFields& fields);

}  // namespace gptq
