#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

namespace gptq {

/// The last file of an output: what belongs to it, and by which job it was made.
struct Manifest {
  struct Entry {
    std::uint64_t bytes = 0;
    std::string sha256;
  };
  std::string fingerprint;
  std::string created_by;
  std::string output_format = "gptq";  ///< output.format: what kind of model this is
  std::map<std::string, Entry> files;
};

inline constexpr const char* kManifestFile = "manifest.json";
inline constexpr const char* kJobMarker = ".gptq-hpc-job";  ///< an output in the making; holds JobMark::work
inline constexpr const char* kCheckpointFolder = "checkpoint";  ///< the default checkpoint.path, inside

void write_manifest(const Manifest& manifest, const std::filesystem::path& directory);
/// Nothing if there is no manifest; throws InputError if there is one that cannot be understood.
std::optional<Manifest> read_manifest(const std::filesystem::path& directory);

/// With its parents, where missing. Throws IoError.
void make_output_directory(const std::filesystem::path& directory);

/// Whose an output is.
struct JobMark {
  JobMark() = default;
  JobMark(std::string both) : result(both), work(std::move(both)) {}
  JobMark(const char* both) : JobMark(std::string(both)) {}
  JobMark(std::string of_result, std::string of_work)
      : result(std::move(of_result)), work(std::move(of_work)) {}

  std::string result;  ///< fingerprint of everything that decides the bytes; in the manifest
  std::string work;    ///< the same but for the backend: one may go on where another one was; in the marker
};

struct OutputClaim {
  std::filesystem::path directory;
  std::filesystem::path source;  ///< the source model: never written to
  JobMark job;
  bool overwrite = false;
  std::uint64_t bytes = 0;          ///< room the output needs
  std::set<std::string> keep = {};  ///< names of the weight files that a checkpoint counts on
};

/// Makes the directory this job's: creates it, or checks that it may be taken, that it is writable and has
/// the room; then marks it and removes the files of an earlier output but those to keep (only names that an
/// output has; never a directory, an unknown file or a lock). Throws IoError before anything is changed if
/// the directory holds something else and overwrite is not set, and, whatever is set, if it is the source
/// model's own. Locks and checkpoints of this program are not "something else".
void claim_output_directory(const OutputClaim& claim);

/// Removes the marker of claim_output_directory, and partial files: once the manifest is there they are
/// nothing but the leftovers of an interrupted end.
void release_output_directory(const std::filesystem::path& directory);

/// Files beside the weights that a model needs and that are copied as they are.
bool is_companion_file(const std::string& name);

}  // namespace gptq
