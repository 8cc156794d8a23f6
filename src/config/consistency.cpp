#include "config/consistency.h"

#include <fmt/format.h>

namespace gptq {
namespace {

using Given = std::function<bool(const std::string&)>;

/// One section and what was asked for in it.
class Settler {
 public:
  Settler(QuantizationSection& section, const Given& given) : section_(section), given_(given) {}

  std::vector<Conflict> run() {
    settle_column_order();
    settle_trits();
    settle_tensor_scale();
    if (section_.method == "rtn") settle_round_to_nearest();
    if (section_.propagation == "full_precision") settle_full_precision();
    return std::move(conflicts_);
  }

 private:
  /// Both orders at once contradict each other; the one that was not asked for gives way.
  void settle_column_order() {
    if (!section_.desc_act || !section_.act_group_aware) return;
    if (given_("act_group_aware") && given_("desc_act")) {
      conflicts_.push_back({"act_group_aware", "true", "desc_act", "true", "set one of them to false"});
    }
    (given_("act_group_aware") ? section_.desc_act : section_.act_group_aware) = false;
  }

  void settle_trits() {
    if (!section_.trits || section_.bits == 2) return;
    if (given_("trits") && given_("bits")) {
      conflicts_.push_back({"bits", std::to_string(section_.bits), "trits", "true",
                            "three levels are stored at 2 bits: leave bits out"});
    }
    if (given_("bits") && !given_("trits")) {
      section_.trits = false;
    } else {
      section_.bits = 2;
    }
  }

  void settle_tensor_scale() {
    if (section_.per_channel || section_.group_size == -1) return;
    if (given_("per_channel") && given_("group_size")) {
      conflicts_.push_back({"group_size", std::to_string(section_.group_size), "per_channel", "false",
                            "a scale for a whole tensor leaves no groups: leave group_size out"});
    }
    if (given_("group_size") && !given_("per_channel")) {
      section_.per_channel = true;
    } else {
      section_.group_size = -1;
    }
  }

  /// No layer sees what was made of those before it.
  void settle_full_precision() {
    if (given_("correction_alpha") && section_.correction_alpha > 0) {
      conflicts_.push_back({"correction_alpha", fmt::format("{}", section_.correction_alpha), "propagation",
                            "full_precision",
                            "there is no error of earlier layers to correct: leave correction_alpha out"});
    }
    if (given_("true_sequential") && !section_.true_sequential) {
      conflicts_.push_back({"true_sequential", "false", "propagation", "full_precision",
                            "all Hessians come from original weights anyway: leave true_sequential out"});
    }
    section_.correction_alpha = 0;
    section_.true_sequential = true;
  }

  /// Round to nearest has no Hessian, so nothing that needs one can be asked for.
  void settle_round_to_nearest() {
    if (section_.desc_act) refuse("desc_act", "set desc_act to false or method to gptq");
    if (section_.token_weight != "none") refuse("token_weight", "set it to none or method to gptq");
    if (section_.refine_sweeps > 0) refuse("refine_sweeps", "set it to 0 or method to gptq");
    if (section_.correction_alpha > 0) refuse("correction_alpha", "set it to 0 or method to gptq");
    if (!section_.best_of.empty()) refuse("best_of", "set it to [] or method to gptq");
    if (section_.propagation != "quantized") refuse("propagation", "leave it out or set method to gptq");
    section_.propagation = "quantized";
    section_.token_weight = "none";
    section_.refine_sweeps = 0;
    section_.correction_alpha = 0;
    section_.best_of.clear();
    if (section_.scale_search != "weighted") return;
    if (given_("scale_search")) {
      conflicts_.push_back({"scale_search", "", "", "",
                            "weighted needs a Hessian, which method rtn does not make; valid with rtn: "
                            "minmax or mse"});
    }
    section_.scale_search = "minmax";
  }

  void refuse(const std::string& key, const std::string& advice) {
    if (!given_(key)) return;
    conflicts_.push_back(
        {key, "", "", "", fmt::format("needs a Hessian, which method rtn does not make; {}", advice)});
  }

  QuantizationSection& section_;
  const Given& given_;
  std::vector<Conflict> conflicts_;
};

}  // namespace

void apply_quality(QuantizationSection& section, const Given& given) {
  const auto set = [&](const char* key, auto& member, auto value) {
    if (!given(key)) member = value;
  };
  if (section.quality == "fast") return;
  set("correction_alpha", section.correction_alpha, 1.0);
  if (section.quality == "default") return;
  set("refine_sweeps", section.refine_sweeps, 3);
  set("rotation", section.rotation, "hadamard");
}

std::string Conflict::message(const std::string& place) const {
  if (other.empty()) return advice;
  return fmt::format("cannot be {} together with {}: {}{}; {}", value, other, other_value,
                     place.empty() ? "" : fmt::format(" ({})", place), advice);
}

std::vector<Conflict> make_consistent(QuantizationSection& section, const Given& given) {
  return Settler(section, given).run();
}

}  // namespace gptq
