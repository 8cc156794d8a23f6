#include "io/calibration.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "base/error.h"
#include "base/process.h"
#include "base/sha256.h"
#include "io/calibration_file.h"
#include "io/vocabulary.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kFirstVersion = 1;
constexpr std::int64_t kMaskVersion = 2;  ///< may hold an attention mask
constexpr const char* kMask = "attention_mask";
constexpr std::int64_t kSlabElements = 4 << 20;  // ids in memory beside the samples that are kept
constexpr const char* kRemedy = kCalibrationRemedy;

void check_format(const CalibrationFile& file, const std::string& path) {
  const std::string format = file.text("format");
  if (format != "gptq-hpc-calibration") {
    throw InputError("{} says that its format is '{}', not 'gptq-hpc-calibration'; {}", path, format,
                     kRemedy);
  }
  const std::int64_t version = file.integer("version");
  if (version != kFirstVersion && version != kMaskVersion) {
    throw InputError(
        "{} has format version {}; this program reads versions {} and {}: use a matching gptq-hpc or make "
        "the file again",
        path, version, kFirstVersion, kMaskVersion);
  }
  if (version == kFirstVersion && file.has(kMask)) {
    throw InputError(
        "{} has a dataset /{}, which version 1 of the format does not know: its padding would be taken for "
        "text. Make the file with --pad-to, or as docs/calibration-format.md describes version 2",
        path, kMask);
  }
}

std::vector<std::int32_t> read_lengths(const CalibrationFile& file, const std::string& path,
                                       std::int64_t samples, std::int64_t seqlen) {
  const Hdf5Handle data = file.dataset("lengths", {static_cast<hsize_t>(samples)});
  std::vector<std::int32_t> lengths(static_cast<std::size_t>(samples));
  file.read_rows(data, 0, lengths.size(), lengths.data());
  for (std::int64_t s = 0; s < samples; ++s) {
    const std::int32_t length = lengths[static_cast<std::size_t>(s)];
    if (length < 1 || length > seqlen) {
      throw InputError("{}: sample {} has length {}, but lengths lie in [1, {}]; {}", path, s, length, seqlen,
                       kRemedy);
    }
  }
  return lengths;
}

void check_ids(const std::vector<std::int32_t>& ids, std::int64_t sample, const CalibrationData& data,
               std::int64_t vocab_size) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    throw InputError(
        "{}: sample {}, position {}: token id {} is outside the model's vocabulary [0, {}); the file was "
        "made for a vocabulary of {}: make it again with this model's tokenizer",
        data.path, sample, i, ids[i], vocab_size, data.vocab_size);
  }
}

/// Which of a row's entries are tokens: [first, end).
struct Extent {
  std::int32_t first = 0;
  std::int32_t end = 0;
};

/// The run of ones in a row of the mask. Tokens on both sides of padding would get wrong positions.
Extent extent_of(std::span<const std::int32_t> mask, std::int32_t length, std::int64_t sample,
                 const std::string& path) {
  const auto refuse = [&](std::size_t position, const char* what, const char* remedy) {
    return InputError("{}: sample {}: attention_mask {} at position {}; {}", path, sample, what, position,
                      remedy);
  };
  Extent extent;
  for (std::size_t i = 0; i < mask.size(); ++i) {
    const auto place = static_cast<std::int32_t>(i);
    if (mask[i] != 0 && mask[i] != 1) throw refuse(i, "holds neither 0 nor 1", kRemedy);
    if (mask[i] == 0) continue;
    if (place >= length) throw refuse(i, "says that there is a token beyond the sample's length", kRemedy);
    if (extent.end > extent.first && extent.end != place) {
      throw refuse(i, "goes on after padding inside the sample",
                   "padding may stand at a sample's ends only: write the parts as samples of their own");
    }
    if (extent.end == extent.first) extent.first = place;
    extent.end = place + 1;
  }
  return extent;
}

/// Goes through a file's rows, all of which are hashed, and keeps those that the choice takes.
class SampleReader {
 public:
  SampleReader(const CalibrationFile& file, std::int64_t rows, const SampleChoice& choice,
               CalibrationData& data)
      : file_(file), rows_(rows), choice_(choice), data_(data) {
    lengths_ = read_lengths(file, data.path, rows, data.seqlen);
    for (const std::int32_t length : lengths_) extents_.push_back({0, length});
  }

  /// Returns the hash of what was read.
  std::string read() {
    if (file_.has(kMask)) {
      for_rows(kMask, [&](std::int64_t sample, std::span<const std::int32_t> mask) {
        const auto s = static_cast<std::size_t>(sample);
        extents_[s] = extent_of(mask, lengths_[s], sample, data_.path);
      });
    }
    for_rows("input_ids", [&](std::int64_t sample, std::span<const std::int32_t> ids) {
      keep(sample, trimmed(sample, ids));
    });
    hash_.update(lengths_.data(), lengths_.size() * sizeof(std::int32_t));
    return hash_.hex();
  }

 private:
  template <typename Visit>
  void for_rows(const char* name, Visit visit) {
    const Hdf5Handle data =
        file_.dataset(name, {static_cast<hsize_t>(rows_), static_cast<hsize_t>(data_.seqlen)});
    const auto width = static_cast<std::size_t>(data_.seqlen);
    const std::int64_t slab = std::clamp<std::int64_t>(kSlabElements / data_.seqlen, 1, rows_);
    std::vector<std::int32_t> buffer(static_cast<std::size_t>(slab) * width);
    for (std::int64_t first = 0; first < rows_; first += slab) {
      const std::int64_t count = std::min(slab, rows_ - first);
      file_.read_rows(data, static_cast<hsize_t>(first), static_cast<hsize_t>(count), buffer.data());
      hash_.update(buffer.data(), static_cast<std::size_t>(count) * width * sizeof(std::int32_t));
      for (std::int64_t s = 0; s < count; ++s)
        visit(first + s,
              std::span<const std::int32_t>(buffer).subspan(static_cast<std::size_t>(s) * width, width));
    }
  }

  std::span<const std::int32_t> trimmed(std::int64_t sample, std::span<const std::int32_t> ids) const {
    const Extent extent = extents_[static_cast<std::size_t>(sample)];
    auto first = static_cast<std::size_t>(extent.first);
    auto end = static_cast<std::size_t>(extent.end);
    while (choice_.pad_token >= 0 && first < end && ids[first] == choice_.pad_token) ++first;
    while (choice_.pad_token >= 0 && first < end && ids[end - 1] == choice_.pad_token) --end;
    return ids.subspan(first, end - first);
  }

  void keep(std::int64_t sample, std::span<const std::int32_t> ids) {
    const auto tokens = static_cast<std::int64_t>(ids.size());
    if (choice_.limit > 0 && static_cast<std::int64_t>(data_.samples.size()) == choice_.limit) return;
    if (tokens < choice_.min_length) {
      data_.left_out += 1;
      return;
    }
    if (tokens == 0) {
      throw InputError(
          "{}: sample {} is nothing but padding; set calibration.min_length to leave it out, or {}",
          data_.path, sample, kRemedy);
    }
    data_.padding += lengths_[static_cast<std::size_t>(sample)] - tokens;
    data_.samples.emplace_back(ids.begin(), ids.end());
    data_.rows.push_back(sample);
  }

  const CalibrationFile& file_;
  std::int64_t rows_;
  const SampleChoice& choice_;
  CalibrationData& data_;
  std::vector<std::int32_t> lengths_;
  std::vector<Extent> extents_;
  Sha256 hash_;
};

void require_enough(const CalibrationData& data, std::int64_t rows, const SampleChoice& choice) {
  const auto found = static_cast<std::int64_t>(data.samples.size());
  if (found > 0 && found >= choice.limit) return;
  const std::string of_length =
      choice.min_length > 0 ? fmt::format(", {} of them of at least {} tokens", found, choice.min_length)
                            : "";
  throw InputError("{} holds {} samples{}, but {} are asked for: lower num_samples{} or make a larger file",
                   data.path, rows, of_length, std::max<std::int64_t>(choice.limit, 1),
                   choice.min_length > 0 ? " or min_length" : "");
}

/// Longest first; of equally long ones the file's order.
void sort_by_length(CalibrationData& data) {
  std::vector<std::size_t> order(data.samples.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return data.samples[a].size() > data.samples[b].size();
  });
  std::vector<std::vector<std::int32_t>> samples;
  std::vector<std::int64_t> rows;
  for (const std::size_t place : order) {
    samples.push_back(std::move(data.samples[place]));
    rows.push_back(data.rows[place]);
  }
  data.samples = std::move(samples);
  data.rows = std::move(rows);
}

}  // namespace

SampleChoice choice_of(const CalibrationSection& section) {
  return {section.num_samples, section.min_length, section.pad_token, section.order == "longest_first"};
}

std::int64_t CalibrationData::tokens() const {
  std::int64_t sum = 0;
  for (const auto& sample : samples) sum += static_cast<std::int64_t>(sample.size());
  return sum;
}

std::int64_t CalibrationData::longest() const {
  std::size_t most = 0;
  for (const auto& sample : samples) most = std::max(most, sample.size());
  return static_cast<std::int64_t>(most);
}

CalibrationData read_calibration(const std::string& path, const SampleChoice& choice,
                                 std::int64_t model_vocab_size) {
  const Hdf5Quiet quiet;
  const CalibrationFile file(path);
  check_format(file, path);
  CalibrationData data;
  data.path = path;
  data.source = file.text("source");
  data.mode = file.text("mode");
  data.created_by = file.text("created_by");
  data.vocabulary_sha256 = file.text("vocabulary_sha256");
  data.sha256 = file.text("sha256");
  data.seed = file.integer("seed");
  data.seqlen = file.integer("seqlen");
  data.vocab_size = file.integer("vocab_size");
  const std::int64_t rows = file.integer("nsamples");
  if (rows < 1 || data.seqlen < 1) {
    throw InputError("{} holds no samples (nsamples {}, seqlen {}); {}", path, rows, data.seqlen, kRemedy);
  }
  const std::string found = SampleReader(file, rows, choice, data).read();
  if (found != data.sha256) {
    throw InputError("{} is damaged: the SHA-256 of its tokens is {}, but it says {}; copy or make it again",
                     path, found, data.sha256);
  }
  require_enough(data, rows, choice);
  for (std::size_t s = 0; s < data.samples.size(); ++s)
    check_ids(data.samples[s], data.rows[s], data, model_vocab_size);
  if (choice.longest_first) sort_by_length(data);
  return data;
}

void check_tokenizer(const CalibrationData& data, const fs::path& model_directory) {
  const std::string found = vocabulary_sha256(model_directory);
  // The tree of a large tokenizer.json (Gemma 3's 33 MB) leaves 170 MB of freed memory in small pieces, in
  // which the tables that are loaded next do not fit: a rank's peak would hold both.
  give_back_freed_memory();
  if (data.vocabulary_sha256.empty() || found.empty() || found == data.vocabulary_sha256) return;
  throw InputError(
      "{} was made with another tokenizer (vocabulary {}) than the one in {} ({}): its token ids mean other "
      "words to "
      "this model; make it again with this model's tokenizer",
      data.path, data.vocabulary_sha256, model_directory.string(), found);
}

}  // namespace gptq
