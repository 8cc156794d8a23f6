#pragma once

#include <string>

/// Parts of this program that need libraries which a plain node lacks (CUDA's, NCCL) are shared modules,
/// opened when first needed: the program itself starts everywhere.
namespace gptq {

/// What a program and its plugins must agree on: the version and a hash of the headers that both see. Every
/// plugin exports it as `extern "C" const char* gptq_hpc_plugin_identity()`.
const char* plugin_identity();

struct Plugin {
  void* entry = nullptr;  ///< the function asked for; null if anything went wrong
  std::string path;       ///< the file that was opened, or that should have been
  std::string problem;  ///< why entry is null, as the beginning of a sentence's rest: "cannot be opened: …"
};

/// Opens a plugin (once a process; it stays open) and finds its entry point. Looked for: the file named by
/// the environment variable `path_variable` if that is set; else `file` beside the program, one folder above
/// it, and in ../lib/gptq-hpc. A plugin of another build is refused. Does not throw: the caller knows the
/// fitting Error.
Plugin load_plugin(const std::string& file, const char* path_variable, const char* entry);

}  // namespace gptq
