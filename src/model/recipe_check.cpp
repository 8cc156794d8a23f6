#include "model/recipe_check.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <regex>

#include "base/error.h"
#include "config/nearest.h"
#include "config/output_format.h"

namespace gptq {
namespace {

/// A recipe and the layers it is for.
class RecipeChecker {
 public:
  RecipeChecker(const ModelShape& model, const JobConfig& job)
      : model_(model), job_(job), section_(job.quantization), recipe_(job.quantization) {
    for (std::int64_t block = 0; block < model.config().num_hidden_layers; ++block) {
      for (const LinearShape& layer : model.layout(block).layers()) {
        if (std::find(names_.begin(), names_.end(), layer.name) == names_.end()) names_.push_back(layer.name);
        modules_.push_back(module(block, layer.name));
      }
    }
    if (recipe_.quantizes_head(head())) modules_.push_back(head());
  }

  std::vector<std::string> run() {
    check_names();
    check_something_is_left();
    check_something_is_corrected();
    const std::string problem = head_problem(model_, recipe_);
    if (!problem.empty()) mistakes_.push_back(problem);
    check_mixed_form();
    if (!mistakes_.empty()) {
      throw UsageError("the recipe does not fit the model {}:\n{}", model_.directory().string(),
                       fmt::join(mistakes_, "\n"));
    }
    note_idle_rules();
    note_planes();
    note_correction();
    for (const JoinedModules& joined : joined_modules(model_.architecture())) note_joined(joined);
    return std::move(notes_);
  }

 private:
  std::string module(std::int64_t block, const std::string& name) const {
    return block_prefix(model_.architecture(), block) + name;
  }

  std::string head() const { return std::string(model_.architecture().head); }

  void check_names() {
    for (const std::string& name : section_.modules_in_block_to_quantize) {
      if (std::find(names_.begin(), names_.end(), name) != names_.end()) continue;
      mistakes_.push_back(
          fmt::format("quantization.modules_in_block_to_quantize: no layer of a block is called '{}'{}", name,
                      nearest_hint("name", name, names_)));
    }
    for (const auto& [name, bits] : section_.module_bits) {
      QuantizationSection alone;
      alone.module_bits = {{name, bits}};
      const bool known = std::any_of(modules_.begin(), modules_.end(), [&](const std::string& module) {
        return name_in_module_bits(alone, module) != nullptr;
      });
      if (known) continue;
      mistakes_.push_back(fmt::format("quantization.module_bits: no layer is called '{}'{}", name,
                                      nearest_hint("name", name, names_)));
    }
  }

  void check_something_is_left() {
    const bool selected = std::any_of(modules_.begin(), modules_.end(), [&](const std::string& module) {
      return module == head() || recipe_.selects(module);
    });
    if (!selected && recipe_.section().rotation == "none") {
      mistakes_.push_back(
          "quantization: include, exclude, modules_in_block_to_quantize and dynamic leave no layer to "
          "quantize");
    }
  }

  /// A full-precision stream for nothing: refused where layers were named, told where a bundle asks for it.
  void check_something_is_corrected() {
    if (section_.method != "gptq" || section_.correction_alpha == 0) return;
    const bool residual = section_.correction_target == "residual";
    if (!residual && recipe_.quantizes_head(head()) && recipe_.corrects(head())) return;
    std::vector<std::string> could;
    for (const BlockStep& step : model_.layout(0).steps) {
      if (residual && !step.writes_residual) continue;
      for (const StageGroup& group : step.groups) {
        for (const LinearShape& layer : group.layers) {
          if (corrects_somewhere(layer.name)) return;
          could.push_back(layer.name);
        }
      }
    }
    const std::string what = fmt::format(
        "none of the layers that correction_target {} can correct ({}) is quantized{}",
        section_.correction_target, residual ? fmt::format("{}", fmt::join(could, " and ")) : "all linears",
        section_.correction_layers.empty() ? "" : " and among correction_layers");
    if (section_.correction_layers.empty()) {
      notes_.push_back(fmt::format("quantization.correction_alpha: {}; set it to 0 to save the time", what));
    } else {
      mistakes_.push_back(
          fmt::format("quantization.correction_layers: {}; name one of them{}, or set "
                      "correction_alpha to 0",
                      what, residual ? ", set correction_target to output" : ""));
    }
  }

  bool corrects_somewhere(const std::string& name) const {
    for (std::int64_t block = 0; block < model_.config().num_hidden_layers; ++block) {
      const std::string layer = module(block, name);
      if (recipe_.selects(layer) && recipe_.corrects(layer)) return true;
    }
    return false;
  }

  /// OneComp's list knows the bits and the group size of a block's modules, and nothing else.
  void check_mixed_form() {
    if (job_.output.quantization_config != "mixed_gptq") return;
    const QuantizedForm base = stored_form(section_);
    for (const std::string& module : modules_) {
      if (module != head() && !recipe_.selects(module)) continue;
      const QuantizedForm form = stored_form(recipe_.section_of(module));
      const bool said =
          form.sym == base.sym && form.desc_act == base.desc_act && (module != head() || form == base);
      if (said) continue;
      mistakes_.push_back(fmt::format(
          "output.quantization_config: mixed_gptq cannot say that {} differs from the others in {}; "
          "use gptq, or give it the same",
          module, module == head() ? "bits, group_size, sym or desc_act" : "sym or desc_act"));
      return;
    }
  }

  void note_idle_rules() {
    for (const ModuleRule& rule : section_.dynamic) note_if_idle("dynamic", rule.pattern, rule.regex(), true);
    for (const std::string& text : section_.include) note_if_idle("include", text, text, false);
  }

  void note_if_idle(const char* key, const std::string& shown, const std::string& text, bool from_start) {
    const std::regex regex(text, std::regex::ECMAScript);
    const auto flags =
        from_start ? std::regex_constants::match_continuous : std::regex_constants::match_default;
    const bool matches = std::any_of(modules_.begin(), modules_.end(), [&](const std::string& module) {
      return std::regex_search(module, regex, flags) || (!from_start && module.ends_with(text));
    });
    if (!matches) notes_.push_back(fmt::format("quantization.{}: '{}' matches no layer", key, shown));
  }

  /// GPTQModel packs 32 codes together and takes no part of them.
  void note_planes() {
    if (job_.output.format == "dequantized" || job_.output.checkpoint_format != "gptq_p") return;
    const auto& config = model_.config();
    const auto whole = [](const LinearShape& layer) {
      return layer.in_features % 32 == 0 && layer.out_features % 32 == 0;
    };
    const auto check = [&](const std::string& module, const LinearShape& layer) {
      const int bits = recipe_.section_of(module).bits;
      if (whole(layer) || (bits != 3 && !needs_planes(bits))) return false;
      notes_.push_back(
          fmt::format("GPTQModel will not load the output: it wants layers of {} bits in checkpoint_format "
                      "gptq_p to have "
                      "in_features and out_features divisible by 32, and {} is {} by {}",
                      bits, module, layer.out_features, layer.in_features));
      return true;
    };
    for (std::int64_t block = 0; block < config.num_hidden_layers; ++block) {
      for (const LinearShape& layer : model_.layout(block).layers()) {
        if (recipe_.selects(module(block, layer.name)) && check(module(block, layer.name), layer)) return;
      }
    }
    if (recipe_.quantizes_head(head())) check(head(), head_shape(model_.architecture(), config));
  }

  /// A norm or a factor behind a layer hides from it what the residual stream lacks.
  void note_correction() {
    if (section_.correction_alpha == 0 || section_.correction_target != "residual") return;
    for (const BlockStep& step : model_.layout(0).steps) {
      if (!step.writes_residual || step.groups.front().adds_to_residual) continue;
      notes_.push_back(fmt::format(
          "in a {} model, what {} gives is normed or scaled before it is added to the residual stream: "
          "correction_target residual corrects it towards its own full-precision output",
          model_.config().model_type, step.groups.front().layers.front().name));
    }
  }

  /// Told once for each pair of joined modules, with the first block.
  void note_joined(const JoinedModules& joined) {
    std::int64_t blocks = 0;
    std::string first;
    for (std::int64_t block = 0; block < model_.config().num_hidden_layers; ++block) {
      std::vector<std::string> forms;
      for (const std::string& part : joined.parts) forms.push_back(form_text(module(block, part)));
      if (std::all_of(forms.begin(), forms.end(), [&](const auto& form) { return form == forms.front(); }))
        continue;
      if (blocks++ > 0) continue;
      for (std::size_t i = 0; i < forms.size(); ++i)
        first += fmt::format("{}{} {}", i > 0 ? ", " : "", joined.parts[i], forms[i]);
    }
    if (blocks == 0) return;
    notes_.push_back(fmt::format(
        "vLLM and SGLang join {} into {} and will not load the output: in {} block(s) they differ ({}); give "
        "them the same values",
        fmt::join(joined.parts, ", "), joined.name, blocks, first));
  }

  std::string form_text(const std::string& module) const {
    if (!recipe_.selects(module)) return "unquantized";
    const QuantizedForm form = stored_form(recipe_.section_of(module));
    return fmt::format("{} bit, group {}{}{}", form.bits, form.group_size, form.sym ? "" : ", asymmetric",
                       form.desc_act ? ", activation order" : "");
  }

  const ModelShape& model_;
  const JobConfig& job_;
  const QuantizationSection& section_;
  const Recipe recipe_;
  std::vector<std::string> names_;    ///< inside a block
  std::vector<std::string> modules_;  ///< full names, and the head if it is asked for
  std::vector<std::string> mistakes_;
  std::vector<std::string> notes_;
};

}  // namespace

std::string head_problem(const ModelShape& model, const Recipe& recipe) {
  const std::string head(model.architecture().head);
  const bool tied = model.config().tie_word_embeddings && recipe.section().rotation == "none";
  if (!tied || !recipe.quantizes_head(head)) return "";
  return fmt::format(
      "quantization.lm_head: the model ties {} to its embedding, which stays as it is; set lm_head to false, "
      "or "
      "rotation to hadamard, which unties the head",
      head);
}

std::vector<std::string> check_recipe(const ModelShape& model, const JobConfig& job) {
  return RecipeChecker(model, job).run();
}

}  // namespace gptq
