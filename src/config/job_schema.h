#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "config/job_config.h"

namespace gptq {

/// What a key's value can change.
enum class Effect {
  result,  ///< the output's bytes; part of the job's identity
  speed,   ///< never the output's bytes: only time, memory, place or what is printed
  eval     ///< what `eval` measures; never the output's bytes
};
std::string_view name_of(Effect effect);

/// Where a key's value lives in a JobConfig; the alternative chosen is the key's type.
using Member = std::variant<bool& (*)(JobConfig&), int& (*)(JobConfig&), std::int64_t& (*)(JobConfig&),
                            double& (*)(JobConfig&), std::string& (*)(JobConfig&),
                            std::vector<std::string>& (*)(JobConfig&)>;

/// Values a key may take. Text: one of `words`, if any. Numbers: one of `numbers`, or within the range, if
/// there is one.
struct Limits {
  std::vector<std::string> words;
  std::vector<std::int64_t> numbers;
  bool has_range = false;
  bool low_open = false;   ///< `low` itself is not allowed
  bool high_open = false;  ///< `high` itself is not allowed
  double low = 0;
  double high = std::numeric_limits<double>::infinity();

  bool allow(double number) const;
  bool allow(const std::string& word) const;
  /// "2, 3, 4 or 8", "-1 or at least 1", "in (0, 1)"; empty where everything is allowed.
  std::string describe() const;
};

/// How the text of a key is meant.
enum class Meaning {
  word,    ///< as it stands
  path,    ///< a leading ~ and ${VARIABLE} are expanded; "$${" stands for "${"
  pattern  ///< module name or ECMAScript regex
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
