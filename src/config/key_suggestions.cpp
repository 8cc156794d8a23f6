#include <fmt/format.h>

#include "config/foreign_names.h"
#include "config/job_schema.h"
#include "config/nearest.h"

namespace gptq {
namespace {

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
  if (const ForeignName* foreign = find_foreign_name(name); foreign != nullptr) {
    if (foreign->key.empty()) return fmt::format("; {}", foreign->note);
    return fmt::format("; nearest valid key '{}'{}{}", foreign->key, foreign->note.empty() ? "" : ": ",
                       foreign->note);
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
