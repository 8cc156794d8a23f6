#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace gptq {

/// Token samples from an HDF5 file (docs/calibration-format.md). Padding is dropped on reading.
struct CalibrationData {
  std::string path;
  std::string sha256;  ///< of ids and lengths, as stored and verified
  std::string source;
  std::string mode;              ///< windows | rows | contiguous
  std::string created_by;        ///< program and version
  std::string vocabulary_sha256;  ///< of the tokenizer's words (io/vocabulary.h); empty: unknown
  std::int64_t seed = 0;
  std::int64_t seqlen = 0;
  std::int64_t vocab_size = 0;  ///< of the tokenizer that made it
  std::vector<std::vector<std::int32_t>> samples;

  std::int64_t tokens() const;
  std::int64_t longest() const;
};

/// limit: the first so many samples; 0: all. Throws InputError: not such a file, wrong hash, no samples or
/// fewer than the limit, a sample without tokens, or a token id outside [0, vocab_size) of the model (named
/// by sample and position).
CalibrationData read_calibration(const std::string& path, std::int64_t limit, std::int64_t model_vocab_size);

/// Throws InputError if the file was made with a tokenizer of other words than the model's tokenizer.json. Where
/// either is unknown nothing is checked.
void check_tokenizer(const CalibrationData& data, const std::filesystem::path& model_directory);

}  // namespace gptq
