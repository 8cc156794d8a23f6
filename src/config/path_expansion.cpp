#include <fmt/format.h>

#include <cstdlib>

#include "config/key_value.h"

namespace gptq {
namespace {

std::optional<std::string> variable(const std::string& name, std::string& problem) {
  const char* value = name.empty() ? nullptr : std::getenv(name.c_str());
  if (value == nullptr) {
    problem = fmt::format(
        "the environment variable '{}' is not set; export it, or write $${{ for a literal ${{", name);
    return std::nullopt;
  }
  return value;
}

std::optional<std::string> home_expanded(const std::string& path, std::string& problem) {
  if (path != "~" && path.rfind("~/", 0) != 0) return path;
  const std::optional<std::string> home = variable("HOME", problem);
  if (!home) return std::nullopt;
  return *home + path.substr(1);
}

}  // namespace

std::optional<std::string> expand_path(const std::string& path, std::string& problem) {
  std::string result;
  for (std::size_t at = 0; at < path.size();) {
    if (path.compare(at, 3, "$${") == 0) {
      result += "${";
      at += 3;
    } else if (path.compare(at, 2, "${") == 0) {
      const std::size_t end = path.find('}', at);
      if (end == std::string::npos) {
        problem = fmt::format("'{}' lacks the closing brace of ${{VARIABLE}}", path);
        return std::nullopt;
      }
      const std::optional<std::string> value = variable(path.substr(at + 2, end - at - 2), problem);
      if (!value) return std::nullopt;
      result += *value;
      at = end + 1;
    } else {
      result += path[at++];
    }
  }
  const bool literal_tilde = path.empty() || path.front() != '~';
  return literal_tilde ? result : home_expanded(result, problem);
}

}  // namespace gptq
