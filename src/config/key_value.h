#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/job_schema.h"

namespace gptq {

struct RawEntry;

/// A value as it was written, before its type is known.
struct RawValue {
  enum class Kind { none, scalar, list, map } kind = Kind::none;
  std::string text;               ///< of a scalar
  bool quoted = false;            ///< "4" is text, 4 is a number
  std::vector<RawValue> items;    ///< of a list
  std::string place;              ///< "job.yaml:3:9" or "--set quantization.bits=3", for messages
  std::vector<RawEntry> entries;  ///< of a map, in its order; a name may be there twice
};

/// A name in a map and what it stands for.
struct RawEntry {
  std::string name;
  std::string place;  ///< of the name
  RawValue value;
};

/// Something wrong with a job.
struct Mistake {
  std::string place;
  std::string key;   ///< empty where no key is concerned
  std::string what;  ///< the mistake and what to do about it

  std::string line() const { return key.empty() ? place + ": " + what : place + ": " + key + ": " + what; }
};

/// Checks `value` against the key's type and limits and stores it; what is wrong is added to `mistakes`
/// instead.
void set_value(const Key& key, const RawValue& value, JobConfig& job, std::vector<Mistake>& mistakes);

/// The same for one entry of a key whose value is a map (has_entries()); the others stay.
void set_entry(const Key& key, const RawEntry& entry, JobConfig& job, std::vector<Mistake>& mistakes);
bool has_entries(const Key& key);

/// The key's value as YAML that set_value takes back: numbers in the shortest exact form, lists in flow
/// style.
std::string value_text(const Key& key, const JobConfig& job);

/// A text for a message: cut where it is long.
std::string shortened(const std::string& text);

/// Why `text` is no ECMAScript regex that can be matched safely; empty if it is one.
std::string regex_problem(const std::string& text);

/// A text as a YAML scalar, in double quotes where it could be taken for anything else.
std::string quote_yaml(const std::string& text);

/// "~/x" and "${VARIABLE}/x" with the home directory and the environment filled in; "$${" gives "${".
/// Nothing and a reason in `problem` if a variable is not set or a brace is not closed.
std::optional<std::string> expand_path(const std::string& path, std::string& problem);

}  // namespace gptq
