#include "base/plugin.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

namespace gptq {
namespace {

namespace fs = std::filesystem;

fs::path program_folder() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).parent_path();
}

}  // namespace

std::string find_plugin(const std::string& file_name, const char* variable) {
  const char* chosen = std::getenv(variable);
  if (chosen != nullptr && *chosen != '\0') return chosen;
  const fs::path folder = program_folder();
  for (const char* place : {"", "../lib/gptq-hpc", "../lib"}) {
    const fs::path path = (folder / place / file_name).lexically_normal();
    std::error_code error;
    if (fs::is_regular_file(path, error)) return path.string();
  }
  return {};
}

LoadedPlugin load_plugin(const std::string& file_name, const char* variable) {
  LoadedPlugin plugin;
  std::string path = find_plugin(file_name, variable);
  if (path.empty()) {
    plugin.problem =
        fmt::format("{} is neither in {} nor in ../lib/gptq-hpc or ../lib from there, and {} is not set",
                    file_name, program_folder().string(), variable);
    return plugin;
  }
  if (path.find('/') == std::string::npos) path = "./" + path;  // a bare name would be searched for elsewhere
  plugin.handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (plugin.handle == nullptr) {
    const char* reason = dlerror();
    plugin.problem =
        fmt::format("{} cannot be loaded: {}", path, reason == nullptr ? "no reason given" : reason);
  }
  return plugin;
}

void* LoadedPlugin::symbol(const char* name) const {
  return handle == nullptr ? nullptr : dlsym(handle, name);
}

}  // namespace gptq
