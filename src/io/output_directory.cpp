#include "io/output_directory.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "io/job_lock.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::int64_t kManifestVersion = 1;
constexpr const char* kManifestFormat = "gptq-hpc-manifest";

/// Files of an output that are not copies of the source's.
constexpr std::array<std::string_view, 8> kOwnFiles = {
    "config.json", "quantize_config.json", "model.safetensors.index.json",
    kManifestFile, "report.json",          "report.csv",
    kJobMarker,    "model.safetensors"};

bool is_output_file(const std::string& name, const std::optional<Manifest>& manifest) {
  return std::find(kOwnFiles.begin(), kOwnFiles.end(), name) != kOwnFiles.end() ||
         name.ends_with(".safetensors") || name.ends_with(".partial") || is_companion_file(name) ||
         (manifest && manifest->files.contains(name));
}

/// The lock of a running job and what it writes beside it: job_lock's own affair.
bool is_lock(const std::string& name) {
  return name.starts_with(kLockFile);
}

/// A manifest that cannot be read counts as none: its directory is then somebody else's.
std::optional<Manifest> readable_manifest(const fs::path& directory) {
  try {
    return read_manifest(directory);
  } catch (const Error&) {
    return std::nullopt;
  }
}

bool is_own(const OutputClaim& claim, const std::optional<Manifest>& manifest) {
  const fs::path marker = claim.directory / kJobMarker;
  std::error_code ignored;
  if (fs::is_regular_file(marker, ignored)) return read_text_file(marker) == claim.job.work + "\n";
  return manifest && manifest->fingerprint == claim.job.result;
}

void refuse_source(const OutputClaim& claim) {
  std::error_code ignored;
  if (fs::equivalent(claim.directory, claim.source, ignored)) {
    throw IoError("output.path {} is the source model's own directory; choose another one",
                  claim.directory.string());
  }
}

/// The first name in the directory that this program does not keep beside an output.
std::optional<std::string> first_content(const fs::path& directory) {
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    const bool beginning = name == std::string(kJobMarker) + ".partial";  // a job that died before it was one
    if (!beginning && !is_lock(name) && !(name == kCheckpointFolder && entry.is_directory())) return name;
  }
  return std::nullopt;
}

/// Earlier outputs' files in the directory that are not to be kept.
std::vector<fs::path> old_files(const OutputClaim& claim, const std::optional<Manifest>& manifest) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(claim.directory)) {
    const std::string name = entry.path().filename().string();
    const bool plain = entry.is_regular_file() || entry.is_symlink();
    if (plain && is_output_file(name, manifest) && !is_lock(name) && !claim.keep.contains(name)) {
      files.push_back(entry.path());
    }
  }
  // The manifest goes first: from then on the directory is no finished output.
  std::sort(files.begin(), files.end(), [](const fs::path& a, const fs::path& b) {
    return std::pair(a.filename() != kManifestFile, a) < std::pair(b.filename() != kManifestFile, b);
  });
  return files;
}

/// Bytes on disk, which may be less than the file's length.
std::uint64_t room_of(const fs::path& file) {
  struct stat status {};
  if (lstat(file.c_str(), &status) != 0) return 0;
  return static_cast<std::uint64_t>(status.st_blocks) * 512;  // POSIX's unit
}

/// The output fits into what is free, what goes, and what stays of it.
void require_room(const OutputClaim& claim, const std::vector<fs::path>& to_remove) {
  struct statvfs status {};
  if (statvfs(claim.directory.c_str(), &status) != 0) {
    throw IoError("cannot find the free space of {}: {}", claim.directory.string(), std::strerror(errno));
  }
  std::uint64_t room = static_cast<std::uint64_t>(status.f_bavail) * status.f_frsize;
  for (const fs::path& file : to_remove) room += room_of(file);
  for (const std::string& name : claim.keep) room += room_of(claim.directory / name);
  if (room >= claim.bytes) return;
  throw IoError(
      "{} has {:.2f} GB free, but the output needs {:.2f} GB; free space there or choose another output.path",
      claim.directory.string(), static_cast<double>(room) * 1e-9, static_cast<double>(claim.bytes) * 1e-9);
}

[[noreturn]] void refuse_content(const OutputClaim& claim, const std::optional<Manifest>& manifest,
                                 const std::string& example) {
  const std::string what = manifest || fs::exists(claim.directory / kJobMarker)
                               ? "the output of another job"
                               : fmt::format("files that are no output of this program ('{}')", example);
  throw IoError("output.path {} holds {}; choose another one, or give --overwrite to replace its model files",
                claim.directory.string(), what);
}

}  // namespace

void make_output_directory(const fs::path& directory) {
  std::error_code error;
  if (fs::exists(directory, error) && !fs::is_directory(directory, error)) {
    throw IoError("output.path {} is a file; choose a directory", directory.string());
  }
  fs::create_directories(directory, error);
  if (error) {
    throw IoError("cannot make the output directory {}: {}; check output.path and its permissions",
                  directory.string(), error.message());
  }
}

bool is_companion_file(const std::string& name) {
  constexpr std::array<std::string_view, 8> kNames = {"tokenizer.model",         "merges.txt",
                                                      "special_tokens_map.json", "added_tokens.json",
                                                      "generation_config.json",  "tokenizer_config.json",
                                                      "tokenizer.json",          "chat_template.json"};
  if (std::find(kNames.begin(), kNames.end(), name) != kNames.end()) return true;
  const bool tokenizer = name.starts_with("tokenizer") && name.ends_with(".json");
  return tokenizer || name.starts_with("vocab.") || name.starts_with("chat_template.") ||
         name.ends_with(".jinja") || name.starts_with("LICENSE");
}

void write_manifest(const Manifest& manifest, const fs::path& directory) {
  nlohmann::ordered_json text;
  text["format"] = kManifestFormat;
  text["version"] = kManifestVersion;
  text["created_by"] = manifest.created_by;
  text["fingerprint"] = manifest.fingerprint;
  text["output_format"] = manifest.output_format;
  text["files"] = nlohmann::ordered_json::object();
  for (const auto& [name, entry] : manifest.files) {
    text["files"][name] = {{"bytes", entry.bytes}, {"sha256", entry.sha256}};
  }
  write_file(directory / kManifestFile, text.dump(2) + "\n");
}

std::optional<Manifest> read_manifest(const fs::path& directory) {
  const fs::path path = directory / kManifestFile;
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return std::nullopt;
  try {
    const json text = json::parse(read_text_file(path));
    if (text.at("format") != kManifestFormat || text.at("version") != kManifestVersion) {
      throw InputError("{} is no manifest of version {} of this program", path.string(), kManifestVersion);
    }
    Manifest manifest{text.at("fingerprint"), text.at("created_by"), text.value("output_format", "gptq"), {}};
    for (const auto& [name, entry] : text.at("files").items()) {
      if (name.empty() || name.find('/') != std::string::npos || name == "." || name == "..") {
        throw InputError("{}: '{}' is no plain file name", path.string(), name);
      }
      manifest.files[name] = {entry.at("bytes"), entry.at("sha256")};
    }
    return manifest;
  } catch (const json::exception& error) {
    throw InputError("{} cannot be understood: {}", path.string(), error.what());
  }
}

void claim_output_directory(const OutputClaim& claim) {
  refuse_source(claim);
  make_output_directory(claim.directory);
  const std::optional<Manifest> manifest = readable_manifest(claim.directory);
  const std::optional<std::string> content = first_content(claim.directory);
  if (content && !claim.overwrite && !is_own(claim, manifest)) refuse_content(claim, manifest, *content);
  const std::vector<fs::path> old = old_files(claim, manifest);
  require_room(claim, old);
  // Also the probe whether we may write here at all.
  write_file(claim.directory / kJobMarker, claim.job.work + "\n");
  for (const fs::path& file : old) {
    std::error_code error;
    if (file.filename() != kJobMarker && !fs::remove(file, error) && error) {
      throw IoError("cannot remove {} of an earlier output: {}", file.string(), error.message());
    }
  }
}

void release_output_directory(const fs::path& directory) {
  std::error_code ignored;
  OutputClaim all;
  all.directory = directory;
  for (const fs::path& file : old_files(all, std::nullopt)) {
    if (file.extension() == ".partial") fs::remove(file, ignored);
  }
  std::error_code error;
  fs::remove(directory / kJobMarker, error);
  if (error) {
    log::warn("cannot remove {}: {}; the output is complete, and the next run of this job tries again",
              (directory / kJobMarker).string(), error.message());
  }
}

}  // namespace gptq
