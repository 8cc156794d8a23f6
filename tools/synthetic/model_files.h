#pragma once

#include <cstdint>
#include <filesystem>

#include "synthetic/shapes.h"

namespace gptq::synthetic {

struct ModelOptions {
  Shape shape;
  DType dtype = DType::bf16;
  std::uint64_t seed = 1;
  std::uint64_t shard_bytes = 5'000'000'000;
  int threads = 0;      ///< 0: all cores
  bool hollow = false;  ///< zeros that take no room on disk, for planning
};

/// Writes a Hugging Face model directory: config.json, safetensors (one file, or several and their index) and
/// a token tokenizer.json. The same options but for `threads` give the same bytes. Files appear under their
/// names when they are complete; needs a few MB a thread. Returns the bytes of the weights.
std::uint64_t write_model(const std::filesystem::path& directory, const ModelOptions& options);

}  // namespace gptq::synthetic
