#include "support/places.h"

#include <cstdlib>

namespace gptq::test {
namespace {

std::string place_from(const char* variable, const char* built_in) {
  const char* const value = std::getenv(variable);
  return value != nullptr && *value != '\0' ? value : built_in;
}

}  // namespace

std::filesystem::path fixtures() {
  return place_from("GPTQ_FIXTURES", GPTQ_FIXTURES);
}

std::string program() {
  return place_from("GPTQ_PROGRAM", GPTQ_PROGRAM);
}

std::filesystem::path configs() {
  return GPTQ_CONFIGS;
}

std::string stale_plugin() {
  return GPTQ_STALE_PLUGIN;
}

std::string emulated_plugin() {
  return GPTQ_EMULATED_PLUGIN;
}

}  // namespace gptq::test
