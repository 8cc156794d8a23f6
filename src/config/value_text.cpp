#include <fmt/format.h>

#include <regex>

#include "config/key_value.h"

namespace gptq {
namespace {

constexpr std::size_t kLongestPattern =
    1000;  // std::regex recurses over its pattern: a longer one may end the stack
constexpr std::size_t kLongestShown = 60;  // of a wrong value, in messages

bool is_digit(char letter) {
  return letter >= '0' && letter <= '9';
}

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

std::string rule_text(const ModuleRule& rule) {
  std::string values;
  for (const auto& [name, value] : rule.values)
    values += fmt::format("{}{}: {}", values.empty() ? "" : ", ", name, value);
  return fmt::format("{}: {{{}}}", quote_yaml(rule.pattern), values);
}

}  // namespace

std::string shortened(const std::string& text) {
  if (text.size() <= kLongestShown) return text;
  std::size_t cut = kLongestShown;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0u) == 0x80u)
    --cut;  // not inside a UTF-8 letter
  return text.substr(0, cut) + "...";
}

std::string regex_problem(const std::string& text) {
  if (text.size() > kLongestPattern) {
    return fmt::format("it is {} characters long; at most {} are allowed", text.size(), kLongestPattern);
  }
  try {
    std::regex pattern(text, std::regex::ECMAScript);
    return "";
  } catch (const std::regex_error& error) {
    return error.what();
  }
}

std::string value_text(const Key& key, const JobConfig& job) {
  struct Writer {
    const Key& key;
    JobConfig job;
    std::string operator()(bool& (*member)(JobConfig&)) { return member(job) ? "true" : "false"; }
    std::string operator()(int& (*member)(JobConfig&)) { return integer(member(job)); }
    std::string operator()(std::int64_t& (*member)(JobConfig&)) { return integer(member(job)); }
    std::string integer(std::int64_t number) const {
      return key.limits.automatic && number == 0 ? "auto" : std::to_string(number);
    }
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
    std::string operator()(std::map<std::string, int>& (*member)(JobConfig&)) {
      std::string text;
      for (const auto& [name, number] : member(job))
        text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", quote_yaml(name), number);
      return "{" + text + "}";
    }
    std::string operator()(std::vector<ModuleRule>& (*member)(JobConfig&)) {
      std::string text;
      for (const ModuleRule& rule : member(job)) text += (text.empty() ? "" : ", ") + rule_text(rule);
      return "{" + text + "}";
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
      if (key.meaning == Meaning::path) return "a list of paths";
      if (key.meaning == Meaning::module) return "a list of module names";
      if (key.meaning == Meaning::settings) return "a list of texts of settings";
      return "a list of module names or regexes";
    }
    std::string operator()(std::map<std::string, int>& (*)(JobConfig&)) const {
      return "a map from module names to integers";
    }
    std::string operator()(std::vector<ModuleRule>& (*)(JobConfig&)) const {
      return "a map from regexes to settings";
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
