#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

/// Where the tests find what belongs to them: in the tree that they were built from, or, in a bundle, where the
/// environment says.
namespace gptq::test {

inline std::string place_from(const char* variable, const char* built_in) {
  const char* const value = std::getenv(variable);
  return value != nullptr && *value != '\0' ? value : built_in;
}

inline std::filesystem::path fixtures() {
  return place_from("GPTQ_FIXTURES", GPTQ_FIXTURES);
}
inline std::string program() {
  return place_from("GPTQ_PROGRAM", GPTQ_PROGRAM);
}

}  // namespace gptq::test
