#include "config/yaml_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "config/job_schema.h"
#include "config/key_value.h"
#include "config/nearest.h"
#include "config/yaml_document.h"

namespace gptq {
namespace {

constexpr std::string_view kSet = "--set ";

bool is_list(const Key& key) {
  return std::holds_alternative<std::vector<std::string>& (*)(JobConfig&)>(key.member);
}

bool is_quoted(const std::string& text) {
  return text.size() >= 2 && (text.front() == '"' || text.front() == '\'') && text.back() == text.front();
}

/// Collects a job from its file and its overrides, and everything that is wrong with them.
class JobReader {
 public:
  explicit JobReader(std::string path) : path_(std::move(path)) {}

  void read_file() {
    const std::vector<RawEntry> document = read_document(path_, mistakes_);
    file_was_read_ = mistakes_.empty() || !document.empty();
    for (const RawEntry& entry : document) read_section(entry);
  }

  /// "quantization.bits=3". Lists and quoted texts are YAML; the rest is taken as typed, so that paths need
  /// no quotes.
  void read_override(const std::string& text) {
    const std::string place = std::string(kSet) + text;
    const std::size_t equals = text.find('=');
    if (!is_clean_text(text))
      return mistake("--set", "", "an override must be UTF-8 text without control characters");
    if (equals == std::string::npos || equals == 0) {
      return mistake(place, "", "must be KEY=VALUE, as in --set quantization.bits=3");
    }
    const std::string path = text.substr(0, equals);
    const Key* key = find_key(path);
    if (key == nullptr) return unknown_override(place, path);
    RawValue value{RawValue::Kind::scalar, text.substr(equals + 1), false, {}, place};
    if (is_list(*key) || is_quoted(value.text)) {
      const std::size_t before = mistakes_.size();
      value = parse_flow(value.text, place, mistakes_);
      if (mistakes_.size() > before) return;
    }
    give(*key, value, place);
  }

  /// What no single key shows: required keys and combinations.
  void check_job() {
    if (file_was_read_ && job_.model.path.empty() && !has_mistake("model.path")) {
      mistake(section_place("model"), "model.path",
              "is required: the Hugging Face directory of the source model");
    }
    settle_column_order();
    settle_round_to_nearest();
  }

  JobConfig result() const {
    if (mistakes_.empty()) return job_;
    std::string text = mistakes_.size() == 1 ? "the job has a mistake"
                                             : fmt::format("the job has {} mistakes", mistakes_.size());
    text += " (configs/reference.yaml explains every key):";
    for (const Mistake& mistake : mistakes_) text += "\n" + mistake.line();
    throw UsageError("{}", text);
  }

 private:
  void mistake(std::string place, std::string key, std::string what) {
    mistakes_.push_back({std::move(place), std::move(key), std::move(what)});
  }

  bool has_mistake(const std::string& key) const {
    return std::any_of(mistakes_.begin(), mistakes_.end(),
                       [&](const Mistake& mistake) { return mistake.key == key; });
  }

  static bool is_section(const std::string& name) {
    const auto& sections = job_sections();
    return std::any_of(sections.begin(), sections.end(),
                       [&](const Section& section) { return section.name == name; });
  }

  static std::string nearest_section(const std::string& name) {
    std::vector<std::string> names;
    for (const Section& section : job_sections()) names.push_back(section.name);
    return nearest(name, names);
  }

  /// Notes where `path` was first written in the file; a second time is a mistake.
  void note_in_file(const std::string& path, const std::string& place) {
    const auto [first, is_new] = in_file_.emplace(path, place);
    if (!is_new) mistake(place, path, fmt::format("is given twice, first at {}; keep one", first->second));
  }

  void read_section(const RawEntry& entry) {
    std::string section = entry.name;
    if (!is_section(section)) {
      mistake(entry.place, section, "is no section of a job" + suggest_key("", section));
      section = nearest_section(section);  // its keys are still checked, so that all mistakes show at once
      if (section.empty() || entry.value.kind != RawValue::Kind::map) return;
    } else {
      note_in_file(section, entry.place);
    }
    if (entry.value.kind == RawValue::Kind::none) return;  // all of its keys are commented out
    if (entry.value.kind != RawValue::Kind::map) {
      return mistake(entry.value.place, section, "must be a map: write its keys indented below it");
    }
    for (const RawEntry& key : entry.entries) read_key(section, key);
  }

  void read_key(const std::string& section, const RawEntry& entry) {
    const std::string path = section + "." + entry.name;
    const Key* key = find_key(path);
    if (key == nullptr) return mistake(entry.place, path, "unknown key" + suggest_key(section, entry.name));
    note_in_file(path, entry.place);
    give(*key, entry.value, entry.value.place);
  }

  void unknown_override(const std::string& place, const std::string& path) {
    const std::size_t dot = path.find('.');
    std::string section = dot == std::string::npos ? "" : path.substr(0, dot);
    if (!is_section(section)) section = nearest_section(section);
    const std::string name = dot == std::string::npos ? path : path.substr(dot + 1);
    std::string hint = suggest_key(section, name);
    if (section.empty() && is_section(name))
      hint = fmt::format("; '{}' is a section: write {}.KEY=VALUE", name, name);
    mistake(place, path, "unknown key" + hint);
  }

  void give(const Key& key, const RawValue& value, const std::string& place) {
    set_value(key, value, job_, mistakes_);
    given_[key.path] = place;
  }

  bool given(const std::string& path) const { return given_.count(path) > 0; }

  /// Both orders at once contradict each other; the default order gives way to an explicit desc_act.
  void settle_column_order() {
    QuantizationSection& recipe = job_.quantization;
    if (!recipe.desc_act || !recipe.act_group_aware) return;
    if (given("quantization.act_group_aware") && given("quantization.desc_act")) {
      mistake(given_["quantization.act_group_aware"], "quantization.act_group_aware",
              fmt::format("cannot be true together with desc_act: true ({}); set one of them to false",
                          given_["quantization.desc_act"]));
    }
    recipe.act_group_aware = false;
  }

  /// Round to nearest has no Hessian, so nothing that needs one can be asked for.
  void settle_round_to_nearest() {
    QuantizationSection& recipe = job_.quantization;
    if (recipe.method != "rtn") return;
    if (recipe.desc_act) {
      mistake(given_["quantization.desc_act"], "quantization.desc_act",
              "needs a Hessian, which method rtn does not make; set desc_act to false or method to gptq");
    }
    if (recipe.scale_search != "weighted") return;
    if (given("quantization.scale_search")) {
      mistake(given_["quantization.scale_search"], "quantization.scale_search",
              "weighted needs a Hessian, which method rtn does not make; valid with rtn: minmax or mse");
    }
    recipe.scale_search = "minmax";
  }

  std::string section_place(const std::string& section) const {
    const auto found = in_file_.find(section);
    return found == in_file_.end() ? path_ + ":1:1" : found->second;
  }

  std::string path_;
  bool file_was_read_ = false;  ///< else what it may have said is unknown, and nothing can be missing
  JobConfig job_;
  std::vector<Mistake> mistakes_;
  std::map<std::string, std::string> in_file_;  ///< key or section → where it stands in the file
  std::map<std::string, std::string> given_;    ///< key → where its present value comes from
};

}  // namespace

JobConfig read_job(const std::string& path, const std::vector<std::string>& overrides) {
  JobReader reader(path);
  reader.read_file();
  for (const std::string& text : overrides) reader.read_override(text);
  reader.check_job();
  return reader.result();
}

}  // namespace gptq
