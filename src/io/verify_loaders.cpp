#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <set>

#include "config/output_format.h"
#include "io/verify_parts.h"

namespace gptq {
namespace {

struct Module {
  std::string name;
  std::int64_t out = 0;
  std::int64_t in = 0;
  bool splits_inputs = false;  ///< tensor parallelism divides its columns (it writes to the residual stream)
  QuantizedForm form;

  bool has_whole_groups(std::int64_t columns) const {
    return form.group_size < 0 || columns % form.group_size == 0;
  }
};

std::vector<Module> quantized_modules(const OutputModel& model) {
  std::vector<Module> modules;
  for (std::int64_t block = 0; block < model.config.num_hidden_layers; ++block) {
    for (const LinearShape& layer : model.layouts[static_cast<std::size_t>(block)].layers()) {
      const std::string name = block_prefix(model.architecture, block) + layer.name;
      const bool splits = layer.name == model.architecture.o || layer.name == model.architecture.down;
      if (model.is_quantized(name))
        modules.push_back({name, layer.out_features, layer.in_features, splits, model.form_of(name)});
    }
  }
  return modules;
}

/// "12 modules with … (model.layers.0.mlp.down_proj)", or nothing.
template <typename Condition>
void add_count(std::vector<std::string>& reasons, const std::vector<Module>& modules, const std::string& what,
               Condition condition) {
  const auto first = std::find_if(modules.begin(), modules.end(), condition);
  if (first == modules.end()) return;
  reasons.push_back(fmt::format("{} module(s) with {}, {} first",
                                std::count_if(first, modules.end(), condition), what, first->name));
}

/// "4 bits", or "3 and 4 bits" where modules differ.
template <typename Describe>
void add_values(std::vector<std::string>& reasons, const std::vector<Module>& modules, Describe describe) {
  std::set<std::string> values;
  for (const Module& module : modules) {
    const std::string value = describe(module.form);
    if (!value.empty()) values.insert(value);
  }
  if (!values.empty()) reasons.push_back(fmt::format("{}", fmt::join(values, " and ")));
}

void note_marlin(const std::vector<Module>& modules, VerifyResult& result) {
  std::vector<std::string> reasons;
  add_values(reasons, modules, [](const QuantizedForm& f) { return f.sym ? "" : "asymmetric zeros"; });
  add_values(reasons, modules, [](const QuantizedForm& f) {
    return f.bits == 4 || f.bits == 8 ? "" : fmt::format("{} bits", f.bits);
  });
  add_values(reasons, modules, [](const QuantizedForm& f) {
    const std::set<std::int64_t> sizes{-1, 32, 64, 128};
    return sizes.contains(f.group_size) ? "" : fmt::format("group size {}", f.group_size);
  });
  add_count(reasons, modules, "out_features not divisible by 64",
            [](const Module& m) { return m.out % 64 != 0; });
  add_count(reasons, modules, "in_features not divisible by 128",
            [](const Module& m) { return m.in % 128 != 0; });
  if (!reasons.empty()) {
    result.notes.push_back(
        fmt::format("vLLM's and SGLang's Marlin kernels do not take: {}", fmt::join(reasons, "; ")));
  }
}

void note_exllama(const std::vector<Module>& modules, VerifyResult& result) {
  std::vector<std::string> reasons;
  add_values(reasons, modules,
             [](const QuantizedForm& f) { return f.bits == 4 ? "" : fmt::format("{} bits", f.bits); });
  add_values(reasons, modules, [](const QuantizedForm& f) {
    const bool taken = f.group_size < 1 || std::has_single_bit(static_cast<std::uint64_t>(f.group_size));
    return taken ? "" : fmt::format("group size {}", f.group_size);
  });
  add_count(reasons, modules, "out_features not divisible by 8",
            [](const Module& m) { return m.out % 8 != 0; });
  if (!reasons.empty()) {
    result.notes.push_back(fmt::format("ExLlamaV2 does not take: {}", fmt::join(reasons, "; ")));
  }
}

/// GPTQModel's own format, which others take for one that they know, or refuse; and what it does not take.
void note_gptqmodel(const OutputModel& model, const std::vector<Module>& modules, VerifyResult& result) {
  const CheckpointFormat format = model.config.quantized.format;
  std::vector<std::string> reasons;
  if (format == CheckpointFormat::gptq && !model.config.quantized.sym)
    reasons.push_back("sym: false in checkpoint_format gptq, unless it wrote that itself; write gptq_v2");
  if (format == CheckpointFormat::gptq_p) {
    result.notes.push_back(
        "checkpoint_format gptq_p is read by GPTQModel (from 7 on) and no other known loader");
    add_count(reasons, modules, "3, 5, 6 or 7 bits and in_features or out_features not divisible by 32",
              [](const Module& m) {
                return (m.form.bits == 3 || needs_planes(m.form.bits)) && (m.in % 32 != 0 || m.out % 32 != 0);
              });
  }
  if (!reasons.empty())
    result.notes.push_back(fmt::format("GPTQModel does not take: {}", fmt::join(reasons, "; ")));
}

void note_shapes(const std::vector<Module>& modules, VerifyResult& result) {
  std::vector<std::string> reasons;
  add_count(reasons, modules, "a last group of fewer columns than the others",
            [](const Module& m) { return !m.has_whole_groups(m.in); });
  add_count(reasons, modules, "in_features not divisible by 32 (padded words)",
            [](const Module& m) { return m.in % 32 != 0; });
  if (!reasons.empty()) {
    result.notes.push_back(fmt::format("some loaders refuse these shapes: {}", fmt::join(reasons, "; ")));
  }
}

bool allows_tensor_parallel(const OutputModel& model, const std::vector<Module>& modules,
                            std::int64_t ranks) {
  const ModelConfig& config = model.config;
  const bool heads = config.num_attention_heads % ranks == 0 &&
                     (config.num_key_value_heads % ranks == 0 || ranks % config.num_key_value_heads == 0);
  return heads && std::all_of(modules.begin(), modules.end(), [&](const Module& m) {
           if (!m.splits_inputs) return m.out % ranks == 0;
           return m.in % ranks == 0 && (m.form.desc_act || m.has_whole_groups(m.in / ranks));
         });
}

void note_tensor_parallel(const OutputModel& model, const std::vector<Module>& modules,
                          VerifyResult& result) {
  std::vector<int> allowed{1};
  for (const int ranks : {2, 4, 8, 16}) {
    if (allows_tensor_parallel(model, modules, ranks)) allowed.push_back(ranks);
  }
  result.notes.push_back(fmt::format("tensor parallelism splits the quantized modules evenly for {} rank(s)",
                                     fmt::join(allowed, ", ")));
}

}  // namespace

void note_loader_limits(const OutputModel& model, VerifyResult& result) {
  const std::vector<Module> modules = quantized_modules(model);
  if (modules.empty()) return;
  note_marlin(modules, result);
  note_exllama(modules, result);
  note_gptqmodel(model, modules, result);
  note_shapes(modules, result);
  note_tensor_parallel(model, modules, result);
}

}  // namespace gptq
