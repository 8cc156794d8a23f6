#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gptq {

/// Token samples from an HDF5 file (docs/calibration-format.md). Padding is dropped on reading.
struct CalibrationData {
  std::string path;
  std::string sha256;     ///< of ids and lengths, as stored and verified
  std::string source;
  std::int64_t seqlen = 0;
  std::int64_t vocab_size = 0;  ///< of the tokenizer that made it
  std::vector<std::vector<std::int32_t>> samples;

  std::int64_t tokens() const;
  std::int64_t longest() const;
};

/// limit: the first so many samples; 0: all. Throws InputError: not such a file, wrong hash, no samples, a sample
/// without tokens, or a token id outside [0, vocab_size) of the model (named by sample and position).
CalibrationData read_calibration(const std::string& path, std::int64_t limit, std::int64_t model_vocab_size);

}  // namespace gptq
