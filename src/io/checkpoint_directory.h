#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "io/checkpoint_manifest.h"

namespace gptq {

/// The generations of one job's checkpoint. No call is collective; one rank commits and prunes.
class CheckpointDirectory {
 public:
  explicit CheckpointDirectory(std::filesystem::path directory) : directory_(std::move(directory)) {}

  const std::filesystem::path& path() const { return directory_; }
  bool exists() const;  ///< there is at least one manifest, good or not
  void create() const;  ///< throws IoError
  /// Generation numbers of the manifests, newest first.
  std::vector<std::int64_t> generations() const;
  /// One more than the highest number any file in the directory carries.
  std::int64_t next_generation() const;
  /// Throws InputError if the manifest is missing, torn, altered or of another version.
  CheckpointManifest read(std::int64_t generation) const;
  /// Throws InputError naming the file if it is missing, has another length or another hash.
  void verify_file(const CheckpointManifest::File& file) const;
  /// Writes the view file and then the manifest, by sync and rename, and syncs the directory. Every rank file is in
  /// place already.
  void commit(const CheckpointManifest& manifest) const;
  /// Removes generations older than the newest `keep` (manifest first) and files that belong to no manifest, except
  /// those of `writing`, a generation under way (0: none). Errors are warnings: a file too many harms nothing.
  void prune(std::int64_t keep, std::int64_t writing) const;
  /// Removes everything this program wrote there and, if then empty, the directory. Manifests first.
  void remove_all() const;

 private:
  std::filesystem::path directory_;
};

/// Text for `inspect`: generations, position, samples, sums present, sizes, hashes, and whether each one is good.
std::string describe_checkpoint(const std::filesystem::path& directory);

}  // namespace gptq
