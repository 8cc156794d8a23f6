#include "io/job_json.h"

#include "config/job_schema.h"

namespace gptq {
namespace {

using nlohmann::ordered_json;

/// A member's value. Rules keep their order.
struct ValueOf {
  JobConfig& job;

  template <typename T>
  ordered_json operator()(T& (*member)(JobConfig&)) const {
    return to_json(member(job));
  }

 private:
  template <typename T>
  static ordered_json to_json(const T& value) {
    return value;
  }
  static ordered_json to_json(const std::map<std::string, int>& numbers) {
    ordered_json json = ordered_json::object();
    for (const auto& [name, number] : numbers) json[name] = number;
    return json;
  }
  static ordered_json to_json(const std::vector<ModuleRule>& rules) {
    ordered_json json = ordered_json::object();
    for (const ModuleRule& rule : rules) {
      ordered_json& settings = json[rule.pattern] = ordered_json::object();
      for (const auto& [name, text] : rule.values) {
        const ordered_json value = ordered_json::parse(text, nullptr, false);
        settings[name] = value.is_discarded() ? ordered_json(text) : value;  // words are no JSON
      }
    }
    return json;
  }
};

}  // namespace

ordered_json to_json(const JobConfig& job) {
  JobConfig copy = job;  // members are reached through a job that could be changed
  ordered_json json;
  for (const Section& section : job_sections()) {
    for (const Key& key : job_keys()) {
      if (key.section() == section.name)
        json[section.name][key.name()] = std::visit(ValueOf{copy}, key.member);
    }
  }
  return json;
}

}  // namespace gptq
