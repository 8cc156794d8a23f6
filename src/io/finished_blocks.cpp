#include "io/finished_blocks.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/sha256.h"
#include "io/safetensors_writer.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kPieceBytes = 4 << 20;

std::string hash_of(const BlockPlace& place, const fs::path& path) {
  const File file = File::open(path);
  Sha256 hash;
  std::vector<std::byte> buffer(kPieceBytes);
  for (const auto& [name, info] : place.tensors) {
    for (std::uint64_t done = 0; done < info.bytes; done += kPieceBytes) {
      const std::size_t count = std::min(kPieceBytes, info.bytes - done);
      file.read_at(buffer.data(), count, info.offset + done);
      hash.update(buffer.data(), count);
    }
  }
  return hash.hex();
}

/// The same for all blocks of a file.
std::optional<std::string> damage_in_file(const fs::path& path, const OutputLayout::File& file) {
  const auto found = earlier_attempt(path);
  if (!found) return fmt::format("{} is missing, with and without .partial", path.string());
  const auto damage = damage_in_frame(*found, lay_out_safetensors(file.tensors));
  if (damage) return fmt::format("{} {}", found->string(), *damage);
  return std::nullopt;
}

std::optional<std::string> damage_in_block(const BlockPlace& place, const fs::path& path,
                                           const std::string& expected) {
  const fs::path file = earlier_attempt(path).value_or(path);
  const std::string found = hash_of(place, file);
  if (found == expected) return std::nullopt;
  return fmt::format("its bytes in {} have changed: SHA-256 {}… instead of {}…", file.string(),
                     found.substr(0, 12), expected.substr(0, 12));
}

}  // namespace

std::vector<BlockPlace> places_of_blocks(const ModelWeights& model, const OutputLayout& layout) {
  std::map<std::string, std::size_t> block_of;
  std::vector<BlockPlace> places(static_cast<std::size_t>(model.config().num_hidden_layers));
  for (std::size_t b = 0; b < places.size(); ++b) {
    block_of[block_prefix(model.architecture(), static_cast<std::int64_t>(b))] = b;
  }
  for (std::size_t f = 0; f < layout.files.size(); ++f) {
    for (auto& [name, info] : lay_out_safetensors(layout.files[f].tensors).tensors) {
      // A prefix ends in a dot, so no prefix begins another: the one that fits is the last not above the
      // name.
      auto candidate = block_of.upper_bound(name);
      if (candidate == block_of.begin() || !name.starts_with((--candidate)->first)) continue;
      BlockPlace& place = places[candidate->second];
      GPTQ_EXPECT(place.tensors.empty() || place.file == f);
      place.file = f;
      place.tensors.emplace_back(name, info);
    }
  }
  return places;
}

std::optional<std::string> damage_in_finished_blocks(const JobConfig& job, const ModelWeights& model,
                                                     const Recipe& recipe,
                                                     const std::vector<std::string>& block_sha256,
                                                     BlockShare share) {
  const OutputLayout layout = lay_out_output(model, recipe, job.output);
  const std::vector<BlockPlace> places = places_of_blocks(model, layout);
  if (block_sha256.size() > places.size()) {
    return fmt::format("{} blocks are said to be finished, but the model has {}", block_sha256.size(),
                       places.size());
  }
  std::map<std::size_t, std::optional<std::string>> damage_of_file;
  for (auto b = static_cast<std::size_t>(share.part); b < block_sha256.size();
       b += static_cast<std::size_t>(share.parts)) {
    const OutputLayout::File& file = layout.files[places[b].file];
    const fs::path path = fs::path(job.output.path) / file.name;
    try {
      const auto [checked, first_time] = damage_of_file.try_emplace(places[b].file);
      if (first_time) checked->second = damage_in_file(path, file);
      std::optional<std::string> damage = checked->second;
      if (!damage) damage = damage_in_block(places[b], path, block_sha256[b]);
      if (damage) return fmt::format("block {} is lost: {}", b, *damage);
    } catch (const IoError& error) {
      return fmt::format("block {} is lost: {}", b, error.what());
    }
  }
  return std::nullopt;
}

}  // namespace gptq
