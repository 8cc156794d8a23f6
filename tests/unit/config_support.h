#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "config/yaml_reader.h"

namespace gptq::config_test {

constexpr const char* kValid = "model: {path: source}\n";  // one line: what a test appends starts at line 2

/// A job file that lives as long as this object; its name is unique to the process, as ctest runs tests side
/// by side.
class JobFile {
 public:
  explicit JobFile(const std::string& text)
      : path_(testing::TempDir() + "gptq_config_" + std::to_string(getpid()) + "_" +
              std::to_string(next_number()) + ".yaml") {
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~JobFile() { std::remove(path_.c_str()); }
  JobFile(const JobFile&) = delete;
  JobFile& operator=(const JobFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  static int next_number() {
    static int number = 0;
    return number++;
  }
  std::string path_;
};

inline std::string replaced(std::string text, const std::string& what, const std::string& by) {
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size()) {
    text.replace(at, what.size(), by);
  }
  return text;
}

/// The lines of the UsageError that read_job throws, less the summary, the file's path shown as FILE; empty
/// if it throws none.
inline std::vector<std::string> mistakes_of(const std::string& path,
                                            const std::vector<std::string>& overrides) {
  try {
    read_job(path, overrides);
    return {};
  } catch (const UsageError& error) {
    std::istringstream stream(error.what());
    std::string line;
    std::getline(stream, line);
    std::vector<std::string> lines;
    while (std::getline(stream, line)) lines.push_back(replaced(line, path, "FILE"));
    return lines;
  }
}

}  // namespace gptq::config_test
