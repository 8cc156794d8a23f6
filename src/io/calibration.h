#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "config/job_config.h"

namespace gptq {

/// Token samples from an HDF5 file (docs/calibration-format.md). Padding is dropped on reading.
struct CalibrationData {
  std::string path;
  std::string sha256;  ///< of ids and lengths, as stored and verified
  std::string source;
  std::string mode;               ///< windows | rows | contiguous
  std::string created_by;         ///< program and version
  std::string vocabulary_sha256;  ///< of the tokenizer's words (io/vocabulary.h); empty: unknown
  std::int64_t seed = 0;
  std::int64_t seqlen = 0;
  std::int64_t vocab_size = 0;  ///< of the tokenizer that made it
  std::vector<std::vector<std::int32_t>> samples;
  std::vector<std::int64_t> rows;  ///< of every sample: its row in the file
  std::int64_t left_out = 0;       ///< rows passed over because they are too short
  std::int64_t padding = 0;        ///< entries of the samples' rows that a mask or a pad token made padding

  std::int64_t tokens() const;
  std::int64_t longest() const;
};

/// Which rows of a file become samples, and in which order.
struct SampleChoice {
  std::int64_t limit = 0;       ///< the first so many of those that are long enough; 0: all
  std::int64_t min_length = 0;  ///< rows of fewer tokens, padding not counted, are passed over
  std::int64_t pad_token = -1;  ///< id whose runs at a row's ends are padding; -1: none
  bool longest_first = false;   ///< sorts what was chosen
};
SampleChoice choice_of(const CalibrationSection& section);

/// Throws InputError: not such a file, wrong hash, no samples or fewer than the limit, a sample without
/// tokens, padding inside a sample, or a token id outside [0, vocab_size) of the model (named by the file's
/// row and the position in the sample).
CalibrationData read_calibration(const std::string& path, const SampleChoice& choice,
                                 std::int64_t model_vocab_size);

/// Throws InputError if the file was made with a tokenizer of other words than the model's tokenizer.json.
/// Where either is unknown nothing is checked.
void check_tokenizer(const CalibrationData& data, const std::filesystem::path& model_directory);

}  // namespace gptq
