#include "config/yaml_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "config/consistency.h"
#include "config/job_schema.h"
#include "config/key_value.h"
#include "config/module_rules.h"
#include "config/nearest.h"
#include "config/output_format.h"
#include "config/yaml_document.h"

namespace gptq {
namespace {

constexpr std::string_view kSet = "--set ";

/// Written as YAML even in an override.
bool is_structured(const Key& key) {
  return has_entries(key) || std::holds_alternative<std::vector<std::string>& (*)(JobConfig&)>(key.member);
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

  /// "quantization.bits=3", or "quantization.module_bits.down_proj=8" for one entry of a map. Lists, maps and
  /// quoted texts are YAML; the rest is taken as typed, so that paths need no quotes.
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
    const Key* whole = key == nullptr ? key_with_entry(path) : nullptr;
    if (key == nullptr && whole == nullptr) return unknown_override(place, path);
    RawValue value{RawValue::Kind::scalar, text.substr(equals + 1), false, {}, place, {}};
    if ((key != nullptr && is_structured(*key)) || is_quoted(value.text)) {
      const std::size_t before = mistakes_.size();
      value = parse_flow(value.text, place, mistakes_);
      if (mistakes_.size() > before) return;
    }
    if (key != nullptr) return give(*key, value, place);
    set_entry(*whole, {path.substr(whole->path.size() + 1), place, value}, job_, mistakes_);
    given_[whole->path] = place;
  }

  /// What no single key shows: required keys and combinations.
  void check_job() {
    if (file_was_read_ && job_.model.path.empty() && !has_mistake("model.path")) {
      mistake(section_place("model"), "model.path",
              "is required: the Hugging Face directory of the source model");
    }
    const auto is_given = [this](const std::string& name) { return given("quantization." + name); };
    apply_quality(job_.quantization, is_given);
    for (const Conflict& conflict : make_consistent(job_.quantization, is_given)) {
      mistake(given_["quantization." + conflict.key], "quantization." + conflict.key,
              conflict.message(given_["quantization." + conflict.other]));
    }
    check_single_layers();
    const auto is_given_anywhere = [this](const std::string& path) { return given(path); };
    for (const Conflict& conflict : settle_checkpoint_format(job_, is_given_anywhere)) {
      mistake(given_[conflict.key], conflict.key, conflict.message(""));
    }
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

  /// The key of a map that `path` names an entry of; null if there is none.
  static const Key* key_with_entry(const std::string& path) {
    const auto& keys = job_keys();
    const auto found = std::find_if(keys.begin(), keys.end(), [&](const Key& key) {
      return has_entries(key) && path.starts_with(key.path + ".");
    });
    return found == keys.end() ? nullptr : &*found;
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
    for (const RawEntry& key : entry.value.entries) read_key(section, key);
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

  /// What holds for single layers and candidates must go together with what holds for the job.
  void check_single_layers() {
    const QuantizationSection& recipe = job_.quantization;
    for (const ModuleRule& rule : recipe.dynamic) {
      check_settings("quantization.dynamic", shortened(rule.pattern), rule.values);
    }
    for (const std::string& text : recipe.best_of) {
      check_settings("quantization.best_of", shortened(text), parse_settings(text));
    }
  }

  void check_settings(const std::string& key, const std::string& what, const Settings& settings) {
    for (const Conflict& conflict : conflicts_of(job_.quantization, settings)) {
      mistake(given_[key], key, fmt::format("'{}': {}: {}", what, conflict.key, conflict.message("")));
    }
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
