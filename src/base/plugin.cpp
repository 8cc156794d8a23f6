#include "base/plugin.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

namespace gptq {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> places(const std::string& file) {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error).parent_path();
  return {program / file, program.parent_path() / file, program.parent_path() / "lib" / "gptq-hpc" / file};
}

/// The plugin's path, or (in `problem`) where it was looked for.
Plugin find(const std::string& file, const char* path_variable) {
  std::error_code ignored;
  if (const char* path = std::getenv(path_variable); path != nullptr && *path != '\0') {
    if (fs::exists(path, ignored)) return {nullptr, path, {}};
    return {nullptr, path,
            fmt::format("does not exist (the environment variable {} names it)", path_variable)};
  }
  std::string folders;
  for (const fs::path& place : places(file)) {
    std::error_code error;
    if (fs::exists(place, error)) return {nullptr, place.string(), {}};
    folders += (folders.empty() ? "" : ", ") + place.parent_path().string();
  }
  return {nullptr, file,
          fmt::format(
              "is missing: it is in none of {}; install it there or name it in the environment variable {}",
              folders, path_variable)};
}

}  // namespace

// CMake defines the macro for this file alone; the plugins get a copy of this file as it was at their build.
const char* plugin_identity() {
  return GPTQ_HPC_PLUGIN_IDENTITY;
}

Plugin load_plugin(const std::string& file, const char* path_variable, const char* entry) {
  Plugin plugin = find(file, path_variable);
  if (!plugin.problem.empty()) return plugin;
  // A path without a slash would be searched for among the system's libraries. Never closed: CUDA's libraries
  // leave threads and exit handlers behind.
  const std::string path = plugin.path.find('/') == std::string::npos ? "./" + plugin.path : plugin.path;
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    plugin.problem = fmt::format("cannot be opened: {}", dlerror());
    return plugin;
  }
  const auto identity = reinterpret_cast<const char* (*)()>(dlsym(handle, "gptq_hpc_plugin_identity"));
  void* function = dlsym(handle, entry);
  if (identity == nullptr || function == nullptr) {
    plugin.problem = fmt::format("is no such plugin of gptq-hpc ({} is not in it)",
                                 identity == nullptr ? "gptq_hpc_plugin_identity" : entry);
  } else if (const std::string theirs = identity(); theirs != plugin_identity()) {
    plugin.problem =
        fmt::format("belongs to another build of gptq-hpc ({}; this program is {}): build both again", theirs,
                    plugin_identity());
  } else {
    plugin.entry = function;
  }
  return plugin;
}

}  // namespace gptq
