#include <fmt/format.h>

#include <sstream>

#include "config/consistency.h"
#include "config/job_schema.h"
#include "config/key_value.h"
#include "config/yaml_reader.h"

namespace gptq {
namespace {

constexpr std::string_view kReferenceHead =
    "# Every key of a job with its default: the output of `gptq-hpc --reference`, which a test compares with "
    "this file.\n"
    "# A job names only what it wants different; configs/quickstart.yaml is a complete one. Unknown keys are "
    "errors.\n"
    "#\n"
    "#   [result]  the value changes the output's bytes\n"
    "#   [speed]   it never does: it changes time, memory, place or what is printed\n"
    "#   [eval]    it changes what `eval` measures, never the output's bytes\n"
    "#\n"
    "# Any key can be given on the command line too: --set quantization.bits=3 --set 'eval.data=[a.h5, "
    "b.h5]'.\n"
    "# In paths, a leading ~ and ${VARIABLE} are expanded; relative ones start at the current directory.\n";

std::string as_comment(const std::string& lines, const std::string& indent) {
  std::istringstream stream(lines);
  std::string text;
  for (std::string line; std::getline(stream, line);) text += indent + "# " + line + "\n";
  return text;
}

/// "[result] an integer: 2, 3, 4 or 8"
std::string facts(const Key& key) {
  return fmt::format("[{}] {}", name_of(key.effect), describe_expected(key));
}

}  // namespace

std::string to_yaml(const JobConfig& config) {
  std::string text;
  for (const Section& section : job_sections()) {
    text += section.name + ":\n";
    for (const Effect effect : {Effect::result, Effect::eval, Effect::speed}) {
      for (const Key& key : job_keys()) {
        if (key.section() != section.name || key.effect != effect) continue;
        text += fmt::format("  {}: {}\n", key.name(), value_text(key, config));
      }
    }
  }
  return text;
}

std::map<std::string, std::string> result_keys(const JobConfig& config) {
  std::map<std::string, std::string> values;
  for (const Key& key : job_keys()) {
    if (key.effect == Effect::result) values[key.path] = value_text(key, config);
  }
  return values;
}

JobConfig default_job() {
  JobConfig job;
  apply_quality(job.quantization, [](const std::string&) { return false; });
  return job;
}

std::string reference_yaml() {
  std::string text(kReferenceHead);
  const JobConfig defaults = default_job();
  for (const Section& section : job_sections()) {
    text += "\n" + as_comment(section.documentation, "") + section.name + ":\n";
    bool first = true;
    for (const Key& key : job_keys()) {
      if (key.section() != section.name) continue;
      text += (first ? "" : "\n") + as_comment(key.documentation, "  ") + as_comment(facts(key), "  ");
      text += fmt::format("  {}: {}\n", key.name(), value_text(key, defaults));
      first = false;
    }
  }
  return text;
}

}  // namespace gptq
