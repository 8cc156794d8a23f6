#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "io/checkpoint_manifest.h"

namespace gptq {

/// The generations of one job's checkpoint. No call is collective; one rank commits and prunes.
class CheckpointDirectory {
 public:
  explicit CheckpointDirectory(std::filesystem::path directory) : directory_(std::move(directory)) {}

  const std::filesystem::path& path() const { return directory_; }
  bool exists() const;  ///< there is at least one manifest, good or not
  void create() const;  ///< with its parents, where missing; throws IoError
  /// Generation numbers of the manifests, newest first.
  std::vector<std::int64_t> generations() const;
  /// One more than the highest number any file in the directory carries.
  std::int64_t next_generation() const;
  /// Throws InputError if the manifest is missing, torn, altered, of another version or another generation's.
  CheckpointManifest read(std::int64_t generation) const;
  /// Throws InputError naming the file if it is missing, cannot be read, has another length or another hash.
  void verify_file(const CheckpointManifest::File& file) const;
  /// Writes the view file and then the manifest, by sync and rename, and syncs the directory. Every rank file
  /// is in place already. Throws IoError; then the generation does not exist. A view that cannot be written
  /// is a warning: the job never reads it.
  void commit(const CheckpointManifest& manifest) const;
  /// Keeps the newest `keep` generations whose manifest can be read and whose files are there with their
  /// sizes; removes the other ones (manifests first) and files that belong to no manifest, except those of
  /// `writing`, a generation under way (0: none). If there are manifests but no such generation, nothing is
  /// removed. Errors are warnings: a file too many harms nothing.
  void prune(std::int64_t keep, std::int64_t writing) const;
  /// Removes a generation, manifest first: one that was found damaged and passed over must not count as one
  /// to keep. Errors are warnings.
  void discard(std::int64_t generation) const;
  /// Removes everything this program wrote there and, if then empty, the directory. Manifests first: IoError
  /// if one cannot be removed, a warning for the rest.
  void remove_all() const;

 private:
  std::filesystem::path directory_;
};

/// Text for `inspect`: generations, position, samples, sums present, sizes, hashes, and whether each one is
/// good.
std::string describe_checkpoint(const std::filesystem::path& directory);
/// The same of one generation, by its manifest's path. Throws InputError if the manifest cannot be used.
std::string describe_generation(const std::filesystem::path& manifest);
/// Of a rank file: whether it is what its manifest says, and what is in it.
std::string describe_rank_file(const std::filesystem::path& path);

}  // namespace gptq
