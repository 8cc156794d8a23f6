#pragma once

#include <string>

namespace gptq {

/// Where a part of this program lies that is a shared object of its own, because it needs libraries which
/// many machines lack: the environment variable `variable` names it, else it is looked for beside the
/// program, then in ../lib/gptq-hpc and ../lib from there. Empty if it is nowhere.
std::string find_plugin(const std::string& file_name, const char* variable);

/// A plugin that was loaded, or why it was not. It stays loaded until the process ends: code and objects of
/// it may live until then.
struct LoadedPlugin {
  void* handle = nullptr;  ///< of dlopen; null if there is a problem
  std::string problem;     ///< one sentence naming the file; empty if there is none

  void* symbol(const char* name) const;  ///< null if the plugin has none of this name
};

/// Finds and loads it. Never throws: the caller knows what the plugin is for.
LoadedPlugin load_plugin(const std::string& file_name, const char* variable);

}  // namespace gptq
