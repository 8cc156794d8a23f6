#include "synthetic/tokens.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "base/error.h"
#include "base/sha256.h"
#include "config/version.h"
#include "io/hdf5_handle.h"
#include "io/safetensors_writer.h"

namespace gptq::synthetic {
namespace {

namespace fs = std::filesystem;

/// splitmix64.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0xd1342543de82ef95ULL + 1) {}
  std::uint64_t next() {
    std::uint64_t x = state_ += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
  }
  std::int64_t below(std::int64_t end) {
    return static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(end));
  }

 private:
  std::uint64_t state_;
};

/// Ids fall off as 1/rank: every octave of ranks is as likely as any other.
std::int32_t draw_zipf(Random& random, std::int64_t vocab) {
  for (;;) {
    const int octave = static_cast<int>(random.below(std::bit_width(static_cast<std::uint64_t>(vocab))));
    const std::int64_t id = (1LL << octave) - 1 + random.below(1LL << octave);
    if (id < vocab) return static_cast<std::int32_t>(id);
  }
}

void draw_sample(std::int32_t* row, const TokenOptions& options, Random& random) {
  constexpr std::int64_t kTopic = 32, kRecent = 16;
  std::vector<std::int32_t> topic(kTopic);
  for (std::int32_t& id : topic) id = static_cast<std::int32_t>(random.below(options.vocab));
  for (std::int64_t i = 0; i < options.tokens; ++i) {
    const std::int64_t choice = random.below(8);
    if (choice <= 1 && i > 0) {
      row[i] = row[i - 1 - (choice == 0 ? 0 : random.below(std::min(i, kRecent)))];
    } else if (choice <= 3) {
      row[i] = topic[static_cast<std::size_t>(random.below(kTopic))];
    } else {
      row[i] = draw_zipf(random, options.vocab);
    }
  }
}

Hdf5Handle write_dataset(const Hdf5Handle& file, const char* name, const std::vector<hsize_t>& shape,
                         const std::vector<std::int32_t>& data, const std::string& path) {
  const Hdf5Handle space(
      hdf5_check(H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr), "write", path));
  Hdf5Handle dataset(hdf5_check(
      H5Dcreate2(file.get(), name, H5T_STD_I32LE, space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
      "write", path));
  hdf5_check(H5Dwrite(dataset.get(), H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, data.data()), "write",
             path);
  return dataset;
}

}  // namespace

void write_tokens(const fs::path& path, const TokenOptions& options) {
  if (options.samples < 1 || options.tokens < 2)
    throw UsageError("--samples must be at least 1, --tokens at least 2");
  std::vector<std::int32_t> ids(static_cast<std::size_t>(options.samples * options.tokens));
  const std::vector<std::int32_t> lengths(static_cast<std::size_t>(options.samples),
                                          static_cast<std::int32_t>(options.tokens));
  Random random(options.seed);
  for (std::int64_t s = 0; s < options.samples; ++s)
    draw_sample(ids.data() + s * options.tokens, options, random);
  Sha256 hash;
  hash.update(ids.data(), ids.size() * sizeof(std::int32_t));
  hash.update(lengths.data(), lengths.size() * sizeof(std::int32_t));

  if (path.has_parent_path()) fs::create_directories(path.parent_path());
  const fs::path partial = partial_path(path);
  {
    const Hdf5Quiet quiet;
    const std::string name = path.string();
    Hdf5Handle file = hdf5_create(partial);
    const auto text = [&](const char* key, const std::string& value) {
      hdf5_write_attribute(file.get(), key, value, name);
    };
    const auto integer = [&](const char* key, std::int64_t value) {
      hdf5_write_attribute(file.get(), key, value, name);
    };
    text("format", "gptq-hpc-calibration");
    integer("version", 1);
    text("source", "synthetic");
    text("vocabulary_sha256", "");
    integer("vocab_size", options.vocab);
    integer("nsamples", options.samples);
    integer("seqlen", options.tokens);
    integer("seed", static_cast<std::int64_t>(options.seed));
    text("mode", "windows");
    text("created_by", "make_synthetic_model " + version());
    text("sha256", hash.hex());
    const auto rows = static_cast<hsize_t>(options.samples);
    const Hdf5Handle dataset =
        write_dataset(file, "input_ids", {rows, static_cast<hsize_t>(options.tokens)}, ids, name);
    hdf5_write_attribute(dataset.get(), "pad_id", std::int64_t{0}, name);
    write_dataset(file, "lengths", {rows}, lengths, name);
  }
  fs::rename(partial, path);
}

}  // namespace gptq::synthetic
