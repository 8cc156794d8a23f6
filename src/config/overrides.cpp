#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/command_line.h"

namespace gptq {
namespace {

/// As a YAML double-quoted scalar, so that any path survives.
std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"";
}

}  // namespace

std::vector<std::string> overrides_of(const CommandLine& line) {
  std::vector<std::string> overrides = line.overrides;
  if (line.overwrite) overrides.push_back("output.overwrite=true");
  if (!line.eval_model.empty()) overrides.push_back("eval.model=" + quoted(line.eval_model));
  if (!line.eval_data.empty()) {
    std::vector<std::string> files;
    for (const std::string& file : line.eval_data) files.push_back(quoted(file));
    overrides.push_back(fmt::format("eval.data=[{}]", fmt::join(files, ", ")));
  }
  return overrides;
}

}  // namespace gptq
