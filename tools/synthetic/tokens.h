#pragma once

#include <cstdint>
#include <filesystem>

namespace gptq::synthetic {

struct TokenOptions {
  std::int64_t samples = 128;
  std::int64_t tokens = 2048;  ///< of each sample
  std::int64_t vocab = 0;
  std::uint64_t seed = 1;
};

/// Writes a calibration file (docs/calibration-format.md). Ids fall off as 1/rank (Zipf), each sample has
/// words of its own, and words come again soon, as in text. The same options give the same ids on every
/// machine.
void write_tokens(const std::filesystem::path& path, const TokenOptions& options);

}  // namespace gptq::synthetic
