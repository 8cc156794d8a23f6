#include <fmt/format.h>

#include <array>

#include "config/job_schema.h"
#include "config/nearest.h"

namespace gptq {
namespace {

/// Names that other quantization programs use. They are never accepted: a job file says one thing in one way.
struct Foreign {
  std::string_view name;
  std::string_view key;   ///< ours, if there is one
  std::string_view note;  ///< what to do where there is none
};

constexpr std::string_view kAtPreparation =
    "it is chosen when the calibration file is made: tools/prepare_calibration.py";

constexpr std::array kForeignNames = {
    Foreign{"wbits", "quantization.bits", ""},
    Foreign{"w_bit", "quantization.bits", ""},
    Foreign{"num_bits", "quantization.bits", ""},
    Foreign{"groupsize", "quantization.group_size", ""},
    Foreign{"q_group_size", "quantization.group_size", ""},
    Foreign{"symmetric", "quantization.sym", ""},
    Foreign{"damp", "quantization.damp_percent", ""},
    Foreign{"percdamp", "quantization.damp_percent", ""},
    Foreign{"dampening_frac", "quantization.damp_percent", ""},
    Foreign{"actorder", "quantization.desc_act", ""},
    Foreign{"act_order", "quantization.desc_act", ""},
    Foreign{"gar", "quantization.act_group_aware", ""},
    Foreign{"mse", "quantization.scale_search", ""},
    Foreign{"observer", "quantization.scale_search", ""},
    Foreign{"maxshrink", "quantization.max_shrink", ""},
    Foreign{"sequential", "quantization.true_sequential", ""},
    Foreign{"targets", "quantization.include", ""},
    Foreign{"ignore", "quantization.exclude", ""},
    Foreign{"modules_to_not_convert", "quantization.exclude", ""},
    Foreign{"nsamples", "calibration.num_samples", ""},
    Foreign{"num_calibration_samples", "calibration.num_samples", ""},
    Foreign{"dataset", "calibration.path", ""},
    Foreign{"model_path", "model.path", ""},
    Foreign{"model_name_or_path", "model.path", ""},
    Foreign{"output_dir", "output.path", ""},
    Foreign{"save_dir", "output.path", ""},
    Foreign{"device", "compute.backend", ""},
    Foreign{"num_threads", "compute.threads", ""},
    Foreign{"batch_size", "compute.micro_batch", ""},
    Foreign{"seqlen", "", kAtPreparation},
    Foreign{"seq_len", "", kAtPreparation},
    Foreign{"max_seq_length", "", kAtPreparation},
    Foreign{"seed", "", kAtPreparation},
};

const Foreign* find_foreign(const std::string& name) {
  const std::string wanted = normalized(name);
  for (const Foreign& foreign : kForeignNames) {
    if (foreign.name == wanted) return &foreign;
  }
  return nullptr;
}

std::vector<std::string> names_in(const std::string& section) {
  std::vector<std::string> names;
  for (const Key& key : job_keys()) {
    if (key.section() == section) names.push_back(key.name());
  }
  return names;
}

/// The full path of the key whose last part is nearest to `name`, in whatever section.
std::string nearest_anywhere(const std::string& name) {
  std::vector<std::string> names;
  for (const Key& key : job_keys()) names.push_back(key.name());
  const std::string guess = nearest(name, names);
  for (const Key& key : job_keys()) {
    if (key.name() == guess) return key.path;
  }
  return {};
}

std::string nearest_in_section(const std::string& section, const std::string& name) {
  const std::string guess = nearest(name, names_in(section));
  return guess.empty() ? "" : section + "." + guess;
}

std::string nearest_section(const std::string& name) {
  std::vector<std::string> names;
  for (const Section& section : job_sections()) names.push_back(section.name);
  return nearest(name, names);
}

std::string all_sections() {
  std::string text;
  for (const Section& section : job_sections()) text += (text.empty() ? "" : ", ") + section.name;
  return text;
}

}  // namespace

std::string suggest_key(const std::string& section, const std::string& name) {
  if (section.empty() && find_key(name) != nullptr) {
    const Key& key = *find_key(name);
    return fmt::format("; keys are nested: write '{}:' and, indented below it, '{}: ...'", key.section(),
                       key.name());
  }
  if (const Foreign* foreign = find_foreign(name); foreign != nullptr) {
    if (foreign->key.empty()) return fmt::format("; {}", foreign->note);
    return fmt::format("; nearest valid key '{}'", foreign->key);
  }
  std::string guess = section.empty() ? nearest_section(name) : nearest_in_section(section, name);
  if (guess.empty()) guess = nearest_anywhere(name);
  if (!guess.empty()) return fmt::format("; nearest valid key '{}'", guess);
  if (section.empty()) return fmt::format("; valid are {}", all_sections());
  std::string valid;
  for (const std::string& known : names_in(section)) valid += (valid.empty() ? "" : ", ") + known;
  return valid.empty() ? "" : fmt::format("; valid in '{}': {}", section, valid);
}

}  // namespace gptq
