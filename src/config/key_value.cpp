#include "config/key_value.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <regex>
#include <system_error>

namespace gptq {
namespace {

constexpr std::size_t kLongestPattern =
    1000;  // std::regex recurses over its pattern: a longer one may end the stack
constexpr std::size_t kLongestShown = 60;  // of a wrong value, in messages

std::string shown(const std::string& text) {
  if (text.size() <= kLongestShown) return text;
  std::size_t cut = kLongestShown;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0u) == 0x80u)
    --cut;  // not inside a UTF-8 letter
  return text.substr(0, cut) + "...";
}

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
      if (!is_scalar(item)) continue;
      if (item.text.empty()) {
        report(item, "an empty text in a list means nothing; remove it");
      } else if (std::optional<std::string> text = read_text(item)) {
        items.push_back(*text);
      }
    }
    member(job_) = std::move(items);
  }

 private:
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
        got = value.quoted ? fmt::format("the text \"{}\"", shown(value.text))
                           : fmt::format("'{}'", shown(value.text));
        break;
    }
    report(value, fmt::format("expected {}, got {}{}", describe_expected(key_), got, hint));
  }

  void out_of_range() {
    report(value_, fmt::format("'{}' is not allowed; valid: {}", shown(value_.text), key_.limits.describe()));
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
    bool integer = false;
    if (!looks_like_number(value_.text, integer) || !integer) {
      wrong_type(value_, "; write decimal digits only");
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
    if (key_.meaning == Meaning::pattern && !is_pattern(value)) return std::nullopt;
    return value.text;
  }

  bool is_pattern(const RawValue& value) {
    if (value.text.size() > kLongestPattern) {
      report(value, fmt::format("is {} characters long; at most {} are allowed", value.text.size(),
                                kLongestPattern));
      return false;
    }
    try {
      std::regex pattern(value.text, std::regex::ECMAScript);
      return true;
    } catch (const std::regex_error& error) {
      report(value, fmt::format("'{}' is neither a module name nor an ECMAScript regex: {}",
                                shown(value.text), error.what()));
      return false;
    }
  }

  const Key& key_;
  const RawValue& value_;
  JobConfig& job_;
  std::vector<Mistake>& mistakes_;
};

/// A literal "${" in a path is written "$${", or reading it back would look for a variable.
std::string protect(const Key& key, const std::string& text) {
  if (key.meaning != Meaning::path) return text;
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text.compare(i, 2, "${") == 0) result += '$';
    result += text[i];
  }
  return result;
}

}  // namespace

void set_value(const Key& key, const RawValue& value, JobConfig& job, std::vector<Mistake>& mistakes) {
  std::visit(ValueReader(key, value, job, mistakes), key.member);
}

std::string value_text(const Key& key, const JobConfig& job) {
  struct Writer {
    const Key& key;
    JobConfig job;
    std::string operator()(bool& (*member)(JobConfig&)) { return member(job) ? "true" : "false"; }
    std::string operator()(int& (*member)(JobConfig&)) { return std::to_string(member(job)); }
    std::string operator()(std::int64_t& (*member)(JobConfig&)) { return std::to_string(member(job)); }
    std::string operator()(double& (*member)(JobConfig&)) { return fmt::format("{}", member(job)); }
    std::string operator()(std::string& (*member)(JobConfig&)) {
      return quote_yaml(protect(key, member(job)));
    }
    std::string operator()(std::vector<std::string>& (*member)(JobConfig&)) {
      std::string text;
      for (const std::string& item : member(job))
        text += (text.empty() ? "" : ", ") + quote_yaml(protect(key, item));
      return "[" + text + "]";
    }
  };
  return std::visit(Writer{key, job}, key.member);
}

std::string describe_expected(const Key& key) {
  struct Namer {
    const Key& key;
    std::string operator()(bool& (*)(JobConfig&)) const { return "true or false"; }
    std::string operator()(int& (*)(JobConfig&)) const { return "an integer"; }
    std::string operator()(std::int64_t& (*)(JobConfig&)) const { return "an integer"; }
    std::string operator()(double& (*)(JobConfig&)) const { return "a number"; }
    std::string operator()(std::string& (*)(JobConfig&)) const {
      return key.meaning == Meaning::path ? "a path" : "a word";
    }
    std::string operator()(std::vector<std::string>& (*)(JobConfig&)) const {
      return key.meaning == Meaning::path ? "a list of paths" : "a list of module names or regexes";
    }
  };
  const std::string limits = key.limits.describe();
  return std::visit(Namer{key}, key.member) + (limits.empty() ? "" : ": " + limits);
}

std::string quote_yaml(const std::string& text) {
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  const auto starts_plain = [&](char c) { return is_letter(c) || c == '/' || c == '.'; };
  const auto stays_plain = [&](char c) { return starts_plain(c) || is_digit(c) || c == '-'; };
  bool plain = !text.empty() && starts_plain(text.front()) && text != "null" && text != "Null" &&
               text != "NULL" && text != "...";
  for (char letter : text) plain = plain && stays_plain(letter);
  if (plain) return text;
  std::string quoted;
  for (char letter : text) {
    if (letter == '"' || letter == '\\') {
      quoted += '\\';
      quoted += letter;
    } else if (static_cast<unsigned char>(letter) < 0x20 || letter == 0x7f) {
      quoted += fmt::format("\\x{:02X}", static_cast<unsigned>(letter));
    } else {
      quoted += letter;
    }
  }
  return "\"" + quoted + "\"";
}

}  // namespace gptq
