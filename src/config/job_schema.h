#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "config/job_config.h"
#include "config/limits.h"

namespace gptq {

/// What a key's value can change.
enum class Effect {
  result,  ///< the output's bytes; part of the job's identity
  speed,   ///< never the output's bytes: only time, memory, place or what is printed
  eval     ///< what `eval` measures; never the output's bytes
};
std::string_view name_of(Effect effect);

/// Where a key's value lives in a JobConfig; the alternative chosen is the key's type.
using Member =
    std::variant<bool& (*)(JobConfig&), int& (*)(JobConfig&), std::int64_t& (*)(JobConfig&),
                 double& (*)(JobConfig&), std::string& (*)(JobConfig&),
                 std::vector<std::string>& (*)(JobConfig&), std::map<std::string, int>& (*)(JobConfig&),
                 std::vector<ModuleRule>& (*)(JobConfig&)>;

/// How the text of a key is meant.
enum class Meaning {
  word,     ///< as it stands
  path,     ///< a leading ~ and ${VARIABLE} are expanded; "$${" stands for "${"
  pattern,  ///< module name or ECMAScript regex
  module,   ///< module name; a list of them may be nested, which means nothing
  settings  ///< "key=value key=value" for a candidate of best_of
};

/// For how much a key's value holds.
enum class Scope {
  job,       ///< all of the job
  layer,     ///< may be given for single layers (quantization.dynamic)
  candidate  ///< the same, and for a candidate of best_of: it leaves the form of the output as it is
};

/// One key of the job YAML: a row of the table that drives reading, checking, overrides, writing and
/// documentation.
struct Key {
  std::string path;  ///< "quantization.bits": the YAML path and the member's path in JobConfig
  Member member;
  Effect effect;
  Limits limits;
  Meaning meaning;
  std::string documentation;  ///< lines for configs/reference.yaml
  Scope scope = Scope::job;

  std::string section() const { return path.substr(0, path.find('.')); }
  std::string name() const { return path.substr(path.find('.') + 1); }
};

struct Section {
  std::string name;
  std::string documentation;
};

const std::vector<Key>& job_keys();          ///< every key, ordered by section
const std::vector<Section>& job_sections();  ///< in the order of the reference
const Key* find_key(std::string_view path);  ///< null if there is none

/// What to do instead of an unknown key, as the end of a message ("; nearest valid key 'quantization.bits'"):
/// names that other programs use come first, then the key nearest in spelling. Empty if nothing is near.
/// section: where the key stood, empty at top level; name: as typed.
std::string suggest_key(const std::string& section, const std::string& name);

/// Type and valid range for messages: "an integer: 2, 3, 4 or 8".
std::string describe_expected(const Key& key);

}  // namespace gptq
