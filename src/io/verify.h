#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace gptq {

struct VerifyResult {
  std::vector<std::string> failures;  ///< rules broken: loaders would reject or misread the model
  std::vector<std::string> notes;     ///< true but harmless: "vLLM Marlin kernels need …"
  std::int64_t files = 0;
  std::int64_t quantized_modules = 0;
};

/// An output directory against its manifest (sizes, SHA-256) and the loaders' contract of PEERS.md §3: names,
/// dtypes, shapes, group sizes, g_idx, fused q/k/v and gate/up alike, tied head absent, router untouched, no
/// NaN in scales; then dequantizes every module.
VerifyResult verify_output(const std::filesystem::path& directory);

/// A human-readable description of a model directory, a safetensors file, a calibration file, or a checkpoint.
std::string inspect_path(const std::filesystem::path& path);

}  // namespace gptq
