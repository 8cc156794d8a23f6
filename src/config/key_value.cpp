#include "config/key_value.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <system_error>

#include "config/module_rules.h"

namespace gptq {
namespace {

bool is_digit(char letter) {
  return letter >= '0' && letter <= '9';
}

/// YAML's decimal numbers only: no hexadecimal, no underscores, no leading zeros, no infinities.
bool looks_like_number(std::string_view text, bool& integer) {
  std::size_t at = 0;
  const auto digits = [&] {
    const std::size_t first = at;
    while (at < text.size() && is_digit(text[at])) ++at;
    return at - first;
  };
  if (at < text.size() && (text[at] == '-' || text[at] == '+')) ++at;
  const std::size_t start = at;
  std::size_t count = digits();
  if (count > 1 && text[start] == '0') return false;
  integer = count > 0 && at == text.size();
  if (at < text.size() && text[at] == '.') {
    ++at;
    count += digits();
  }
  if (count == 0) return false;
  if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
    ++at;
    if (at < text.size() && (text[at] == '-' || text[at] == '+')) ++at;
    if (digits() == 0) return false;
  }
  return at == text.size();
}

template <typename T>
std::errc parse_number(std::string_view text, T& number) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);  // from_chars takes no plus
  return std::from_chars(text.data(), text.data() + text.size(), number).ec;
}

/// Reads one value into one member and says what is wrong with it.
class ValueReader {
 public:
  ValueReader(const Key& key, const RawValue& value, JobConfig& job, std::vector<Mistake>& mistakes)
      : key_(key), value_(value), job_(job), mistakes_(mistakes) {}

  void operator()(bool& (*member)(JobConfig&)) {
    if (!is_plain_scalar()) return;
    if (value_.text == "true" || value_.text == "false") {
      member(job_) = value_.text == "true";
    } else {
      wrong_type(value_, "; write true or false");
    }
  }

  void operator()(int& (*member)(JobConfig&)) {
    std::int64_t number = 0;
    if (!read_integer(number)) return;
    if (number > std::numeric_limits<int>::max() || number < std::numeric_limits<int>::min())
      return out_of_range();
    member(job_) = static_cast<int>(number);
  }

  void operator()(std::int64_t& (*member)(JobConfig&)) {
    std::int64_t number = 0;
    if (read_integer(number)) member(job_) = number;
  }

  void operator()(double& (*member)(JobConfig&)) {
    if (!is_plain_scalar()) return;
    bool integer = false;
    if (!looks_like_number(value_.text, integer)) return wrong_type(value_, "");
    double number = 0;
    if (parse_number(value_.text, number) != std::errc{} || !std::isfinite(number)) {
      return wrong_type(value_, "; it is too large or too small for a double");
    }
    if (!key_.limits.allow(number)) return out_of_range();
    member(job_) = number;
  }

  void operator()(std::string& (*member)(JobConfig&)) {
    if (!is_scalar(value_)) return;
    if (!key_.limits.allow(value_.text)) return out_of_range();
    if (std::optional<std::string> text = read_text(value_)) member(job_) = *text;
  }

  void operator()(std::vector<std::string>& (*member)(JobConfig&)) {
    if (value_.kind != RawValue::Kind::list) return wrong_type(value_, "; write [a, b], or [] for none");
    std::vector<std::string> items;
    for (const RawValue& item : value_.items) {
      const bool nested = key_.meaning == Meaning::module && item.kind == RawValue::Kind::list;
      for (const RawValue& text : nested ? item.items : std::vector<RawValue>{item}) add_item(text, items);
    }
    member(job_) = std::move(items);
  }

  void operator()(std::map<std::string, int>& (*member)(JobConfig&)) {
    if (value_.kind != RawValue::Kind::map) return wrong_type(value_, "; write {name: bits}, or {} for none");
    std::map<std::string, int> numbers;
    for (const RawEntry& entry : value_.entries) {
      if (numbers.count(entry.name) > 0) {
        mistakes_.push_back({entry.place, entry_key(entry.name), "is given twice; keep one"});
      }
      add_entry(entry, numbers);
    }
    member(job_) = std::move(numbers);
  }

  void operator()(std::vector<ModuleRule>& (*member)(JobConfig&)) {
    if (value_.kind != RawValue::Kind::map) {
      return wrong_type(value_, "; write {\"REGEX\": {bits: 8}}, or {} for none");
    }
    member(job_) = read_module_rules(key_, value_, mistakes_);
  }

  /// One entry of a map of numbers; nothing is stored where it is wrong.
  void add_entry(const RawEntry& entry, std::map<std::string, int>& numbers) {
    std::vector<Mistake> mistakes;
    Key number = *find_key("quantization.bits");  // for the words of messages: an integer
    number.path = entry_key(entry.name);
    number.limits = key_.limits;
    std::int64_t value = 0;
    if (entry.name.empty()) {
      mistakes_.push_back({entry.place, key_.path, "an empty name means no module; remove it"});
    } else if (ValueReader(number, entry.value, job_, mistakes).read_integer(value)) {
      numbers[entry.name] = static_cast<int>(value);
    }
    mistakes_.insert(mistakes_.end(), mistakes.begin(), mistakes.end());
  }

 private:
  std::string entry_key(const std::string& name) const {
    return fmt::format("{}.{}", key_.path, shortened(name));
  }

  void add_item(const RawValue& item, std::vector<std::string>& items) {
    if (!is_scalar(item)) return;
    if (item.text.empty()) {
      report(item, "an empty text in a list means nothing; remove it");
    } else if (std::optional<std::string> text = read_text(item)) {
      items.push_back(*text);
    }
  }

  void report(const RawValue& value, std::string what) {
    mistakes_.push_back({value.place, key_.path, std::move(what)});
  }

  void wrong_type(const RawValue& value, std::string_view hint) {
    std::string got;
    switch (value.kind) {
      case RawValue::Kind::none:
        return report(value,
                      fmt::format("has no value; give it one ({}), or remove the line for the default {}",
                                  describe_expected(key_), default_text()));
      case RawValue::Kind::list:
        got = "a list";
        break;
      case RawValue::Kind::map:
        got = "a map";
        break;
      case RawValue::Kind::scalar:
        got = value.quoted ? fmt::format("the text \"{}\"", shortened(value.text))
                           : fmt::format("'{}'", shortened(value.text));
        break;
    }
    report(value, fmt::format("expected {}, got {}{}", describe_expected(key_), got, hint));
  }

  void out_of_range() {
    const std::string& reason = key_.limits.reason;
    report(value_, fmt::format("'{}' is not allowed; valid: {}{}{}", shortened(value_.text),
                               key_.limits.describe(), reason.empty() ? "" : ": ", reason));
  }

  std::string default_text() const {
    const std::string text = value_text(key_, JobConfig{});
    return text.empty() ? "\"\"" : text;
  }

  bool is_scalar(const RawValue& value) {
    if (value.kind == RawValue::Kind::scalar) return true;
    wrong_type(value, "");
    return false;
  }

  bool is_plain_scalar() {
    if (!is_scalar(value_)) return false;
    if (value_.quoted) wrong_type(value_, "; remove the quotes");
    return !value_.quoted;
  }

  bool read_integer(std::int64_t& number) {
    if (!is_plain_scalar()) return false;
    if (key_.limits.automatic && value_.text == "auto") {
      number = 0;
      return true;
    }
    bool integer = false;
    if (!looks_like_number(value_.text, integer) || !integer) {
      wrong_type(value_, key_.limits.automatic ? "" : "; write decimal digits only");
    } else if (parse_number(value_.text, number) != std::errc{}) {
      wrong_type(value_, "; it does not fit into 64 bits");
    } else if (!key_.limits.allow(static_cast<double>(number))) {
      out_of_range();
    } else {
      return true;
    }
    return false;
  }

  std::optional<std::string> read_text(const RawValue& value) {
    if (value.text.find('\0') != std::string::npos) {
      report(value, "contains a NUL character");
      return std::nullopt;
    }
    if (key_.meaning == Meaning::path) {
      std::string problem;
      std::optional<std::string> path = expand_path(value.text, problem);
      if (!path) report(value, problem);
      return path;
    }
    const std::string problem = text_problem(value.text);
    if (problem.empty()) return value.text;
    report(value, problem);
    return std::nullopt;
  }

  std::string text_problem(const std::string& text) const {
    if (key_.meaning == Meaning::settings) return settings_problem(text);
    if (key_.meaning != Meaning::pattern) return "";
    const std::string problem = regex_problem(text);
    if (problem.empty()) return "";
    return fmt::format("'{}' is neither a module name nor an ECMAScript regex: {}", shortened(text), problem);
  }

  const Key& key_;
  const RawValue& value_;
  JobConfig& job_;
  std::vector<Mistake>& mistakes_;
};

}  // namespace

void set_value(const Key& key, const RawValue& value, JobConfig& job, std::vector<Mistake>& mistakes) {
  std::visit(ValueReader(key, value, job, mistakes), key.member);
}

void set_entry(const Key& key, const RawEntry& entry, JobConfig& job, std::vector<Mistake>& mistakes) {
  const auto* member = std::get_if<std::map<std::string, int>& (*)(JobConfig&)>(&key.member);
  if (member != nullptr) return ValueReader(key, entry.value, job, mistakes).add_entry(entry, (*member)(job));
  mistakes.push_back(
      {entry.place, key.path,
       fmt::format("takes its rules together: --set '{}={{\"REGEX\": {{bits: 8}}}}'", key.path)});
}

bool has_entries(const Key& key) {
  return std::holds_alternative<std::map<std::string, int>& (*)(JobConfig&)>(key.member) ||
         std::holds_alternative<std::vector<ModuleRule>& (*)(JobConfig&)>(key.member);
}

}  // namespace gptq
