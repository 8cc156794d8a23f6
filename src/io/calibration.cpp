#include "io/calibration.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/error.h"
#include "base/sha256.h"
#include "io/hdf5_handle.h"
#include "io/vocabulary.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kVersion = 1;
constexpr std::int64_t kSlabElements = 4 << 20;  // ids in memory beside the samples that are kept
constexpr const char* kRemedy = "make one with tools/prepare_calibration.py";

/// An open calibration file.
class CalibrationFile {
 public:
  explicit CalibrationFile(const std::string& path) : path_(path) {
    std::error_code ignored;
    if (!fs::exists(path, ignored)) throw InputError("calibration file {} does not exist; {}", path, kRemedy);
    if (fs::is_directory(path, ignored)) {
      throw InputError("{} is a directory, not a calibration file; {}", path, kRemedy);
    }
    if (H5Fis_hdf5(path.c_str()) <= 0) {
      H5Eclear2(H5E_DEFAULT);
      throw InputError("{} is no HDF5 file (or cannot be read, or is damaged); {}", path, kRemedy);
    }
    // Such files never change once they have their name; locks only fail on some cluster file systems.
    const Hdf5Handle access(check(H5Pcreate(H5P_FILE_ACCESS), "prepare to open"));
    check(H5Pset_file_locking(access.get(), false, true), "prepare to open");
    file_ = Hdf5Handle(check(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), "open"));
  }

  std::string text(const char* name) const {
    const Hdf5Handle attribute = open_attribute(name);
    const Hdf5Handle type(check(H5Aget_type(attribute.get()), "read the attributes of"));
    if (H5Tget_class(type.get()) != H5T_STRING) throw wrong_type(name, "a string");
    if (H5Tis_variable_str(type.get()) > 0) return variable_text(attribute, type);
    std::string value(H5Tget_size(type.get()), '\0');
    check(H5Aread(attribute.get(), type.get(), value.data()), "read the attributes of");
    return value.substr(0, value.find('\0'));
  }

  std::int64_t integer(const char* name) const {
    const Hdf5Handle attribute = open_attribute(name);
    const Hdf5Handle type(check(H5Aget_type(attribute.get()), "read the attributes of"));
    if (H5Tget_class(type.get()) != H5T_INTEGER) throw wrong_type(name, "an integer");
    long long value = 0;
    check(H5Aread(attribute.get(), H5T_NATIVE_LLONG, &value), "read the attributes of");
    return value;
  }

  Hdf5Handle dataset(const char* name, const std::vector<hsize_t>& shape) const {
    if (H5Lexists(file_.get(), name, H5P_DEFAULT) <= 0) {
      throw InputError("{} has no dataset /{}; it is no complete calibration file, {}", path_, name, kRemedy);
    }
    Hdf5Handle data(check(H5Dopen2(file_.get(), name, H5P_DEFAULT), "open a dataset of"));
    const Hdf5Handle type(check(H5Dget_type(data.get()), "read a dataset of"));
    const Hdf5Handle space(check(H5Dget_space(data.get()), "read a dataset of"));
    std::array<hsize_t, H5S_MAX_RANK> extents{};
    const int rank =
        check(H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr), "read a dataset of");
    const bool same = static_cast<std::size_t>(rank) == shape.size() &&
                      std::equal(shape.begin(), shape.end(), extents.begin());
    if (H5Tget_class(type.get()) != H5T_INTEGER || !same) {
      throw InputError("{}: dataset /{} is not int32 with the shape that nsamples and seqlen tell; {}", path_,
                       name, kRemedy);
    }
    return data;
  }

  /// Rows [first, first + count) of a dataset of one or two dimensions.
  void read_rows(const Hdf5Handle& data, hsize_t first, hsize_t count, std::int32_t* out) const {
    const Hdf5Handle space(check(H5Dget_space(data.get()), "read a dataset of"));
    std::array<hsize_t, 2> start{first, 0};
    std::array<hsize_t, 2> extent{};
    const int rank =
        check(H5Sget_simple_extent_dims(space.get(), extent.data(), nullptr), "read a dataset of");
    extent[0] = count;
    check(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start.data(), nullptr, extent.data(), nullptr),
          "read a dataset of");
    const Hdf5Handle memory(check(H5Screate_simple(rank, extent.data(), nullptr), "read a dataset of"));
    check(H5Dread(data.get(), H5T_NATIVE_INT32, memory.get(), space.get(), H5P_DEFAULT, out),
          "read a dataset of");
  }

 private:
  template <typename T>
  T check(T result, const char* what) const {
    return hdf5_check(result, what, "calibration file " + path_);
  }

  Hdf5Handle open_attribute(const char* name) const {
    if (check(H5Aexists(file_.get(), name), "read the attributes of") == 0) {
      throw InputError("{} has no attribute '{}'; it is no calibration file, {}", path_, name, kRemedy);
    }
    Hdf5Handle attribute(check(H5Aopen(file_.get(), name, H5P_DEFAULT), "read the attributes of"));
    const Hdf5Handle space(check(H5Aget_space(attribute.get()), "read the attributes of"));
    if (H5Sget_simple_extent_npoints(space.get()) != 1) throw wrong_type(name, "a single value");
    return attribute;
  }

  InputError wrong_type(const char* name, const char* expected) const {
    return InputError("{}: attribute '{}' is not {}; {}", path_, name, expected, kRemedy);
  }

  std::string variable_text(const Hdf5Handle& attribute, const Hdf5Handle& type) const {
    const Hdf5Handle space(check(H5Aget_space(attribute.get()), "read the attributes of"));
    char* pointer = nullptr;
    check(H5Aread(attribute.get(), type.get(), static_cast<void*>(&pointer)), "read the attributes of");
    const std::string value = pointer == nullptr ? "" : pointer;
    check(H5Dvlen_reclaim(type.get(), space.get(), H5P_DEFAULT, static_cast<void*>(&pointer)),
          "read the attributes of");
    return value;
  }

  std::string path_;
  Hdf5Handle file_;
};

void check_format(const CalibrationFile& file, const std::string& path) {
  const std::string format = file.text("format");
  if (format != "gptq-hpc-calibration") {
    throw InputError("{} says that its format is '{}', not 'gptq-hpc-calibration'; {}", path, format,
                     kRemedy);
  }
  const std::int64_t version = file.integer("version");
  if (version != kVersion) {
    throw InputError(
        "{} has format version {}; this program reads version {}: use a matching gptq-hpc or make the "
        "file again",
        path, version, kVersion);
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

/// Reads all ids in slabs: all are hashed, the first `wanted` samples are kept, without padding.
Sha256 read_samples(const CalibrationFile& file, std::int64_t samples, std::int64_t wanted,
                    const std::vector<std::int32_t>& lengths, CalibrationData& data) {
  const Hdf5Handle ids =
      file.dataset("input_ids", {static_cast<hsize_t>(samples), static_cast<hsize_t>(data.seqlen)});
  const std::int64_t slab = std::clamp<std::int64_t>(kSlabElements / data.seqlen, 1, samples);
  std::vector<std::int32_t> buffer(static_cast<std::size_t>(slab * data.seqlen));
  Sha256 hash;
  for (std::int64_t first = 0; first < samples; first += slab) {
    const std::int64_t count = std::min(slab, samples - first);
    file.read_rows(ids, static_cast<hsize_t>(first), static_cast<hsize_t>(count), buffer.data());
    hash.update(buffer.data(), static_cast<std::size_t>(count * data.seqlen) * sizeof(std::int32_t));
    for (std::int64_t s = first; s < std::min(first + count, wanted); ++s) {
      const auto row = buffer.begin() + (s - first) * data.seqlen;
      data.samples.emplace_back(row, row + lengths[static_cast<std::size_t>(s)]);
    }
  }
  return hash;
}

}  // namespace

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

CalibrationData read_calibration(const std::string& path, std::int64_t limit, std::int64_t model_vocab_size) {
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
  const std::int64_t samples = file.integer("nsamples");
  if (samples < 1 || data.seqlen < 1) {
    throw InputError("{} holds no samples (nsamples {}, seqlen {}); {}", path, samples, data.seqlen, kRemedy);
  }
  if (limit > samples) {
    throw InputError("{} holds {} samples, but {} are asked for: lower num_samples or make a larger file",
                     path, samples, limit);
  }
  const std::vector<std::int32_t> lengths = read_lengths(file, path, samples, data.seqlen);
  Sha256 hash = read_samples(file, samples, limit > 0 ? limit : samples, lengths, data);
  hash.update(lengths.data(), lengths.size() * sizeof(std::int32_t));
  const std::string found = hash.hex();
  if (found != data.sha256) {
    throw InputError("{} is damaged: the SHA-256 of its tokens is {}, but it says {}; copy or make it again",
                     path, found, data.sha256);
  }
  for (std::size_t s = 0; s < data.samples.size(); ++s) {
    check_ids(data.samples[s], static_cast<std::int64_t>(s), data, model_vocab_size);
  }
  return data;
}

void check_tokenizer(const CalibrationData& data, const fs::path& model_directory) {
  const std::string found = vocabulary_sha256(model_directory);
  if (data.vocabulary_sha256.empty() || found.empty() || found == data.vocabulary_sha256) return;
  throw InputError(
      "{} was made with another tokenizer (vocabulary {}) than the one in {} ({}): its token ids mean other words to "
      "this model; make it again with this model's tokenizer",
      data.path, data.vocabulary_sha256, model_directory.string(), found);
}

}  // namespace gptq
