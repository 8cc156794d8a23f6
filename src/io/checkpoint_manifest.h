#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "quant/quantized_layer.h"

namespace gptq {

/// What a generation of a checkpoint consists of; docs/checkpoint-format.md. The generation counts once this
/// is on disk.
struct CheckpointManifest {
  struct File {
    std::string name;
    std::uint64_t bytes = 0;
    std::string sha256;
    std::int64_t first_sample = 0;  ///< the file's samples are [first_sample, end_sample)
    std::int64_t end_sample = 0;
    std::vector<std::int64_t> chunks_summed;  ///< in the file's `sum`
  };

  std::int64_t generation = 0;
  std::string created_by;
  std::string written;     ///< UTC
  std::int64_t block = 0;  ///< the position: this block's ...
  std::int64_t group = 0;  ///< ... stage group is next to be summed, or is being summed
  double seconds = 0;      ///< work in it, over all attempts
  std::int64_t attempts = 1;
  std::map<std::string, std::string> identity;   ///< everything that decides the result's bytes
  std::map<std::string, std::string> made_with;  ///< ranks, threads, host, paths: may change between attempts
  std::vector<File> files;                ///< one a rank, ascending by samples; none for round-to-nearest
  std::vector<std::string> block_sha256;  ///< of each finished block in the output's files
  std::vector<LayerStatistics> layers;    ///< of every finished layer, the present block's included

  std::string file_name() const;  ///< "gen-000012.json"
};

std::string checkpoint_file_name(std::int64_t generation, int rank);  ///< "gen-000012-rank-0003.h5"
std::string checkpoint_view_name(std::int64_t generation);  ///< "gen-000012.h5", the virtual datasets

/// What a file's name says. Nothing but names that this program gives.
struct CheckpointFileName {
  enum class Kind { manifest, view, rank_file } kind = Kind::manifest;
  std::int64_t generation = 0;
  bool partial = false;  ///< still being written, or left behind by a job that died
};
std::optional<CheckpointFileName> parse_checkpoint_name(const std::string& name);

/// JSON with its own hash inside. Every number reads back as it was, also what JSON has no word for (NaN,
/// infinity).
std::string to_json(const CheckpointManifest& manifest);
/// Throws InputError naming the file: not such a file, another version, or its hash does not fit (torn,
/// altered).
CheckpointManifest read_checkpoint_manifest(const std::filesystem::path& path);

/// Layers' figures as ranks tell them each other: JSON that reads back as it was.
std::string layers_to_json(const std::vector<LayerStatistics>& layers);
std::vector<LayerStatistics> layers_from_json(const std::string& text);

/// The keys whose values differ, as "key: old → new" lines; keys of one side only count as differing. What no
/// JSON can hold (a path that is no UTF-8) is compared as the manifest holds it.
std::vector<std::string> differing_keys(const std::map<std::string, std::string>& old_keys,
                                        const std::map<std::string, std::string>& new_keys);

}  // namespace gptq
