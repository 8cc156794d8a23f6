#include "io/checkpoint_directory.h"

#include <algorithm>
#include <functional>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "io/checkpoint_file.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;
using Kind = CheckpointFileName::Kind;

struct Entry {
  fs::path path;
  CheckpointFileName name;
};

/// Everything in the directory that this program wrote, by generation; nothing if there is no directory.
std::vector<Entry> entries(const fs::path& directory) {
  std::vector<Entry> found;
  std::error_code error;
  if (!fs::exists(directory, error) && !error) return found;
  fs::directory_iterator item(directory, error);
  for (; !error && item != fs::directory_iterator(); item.increment(error)) {
    const auto name = parse_checkpoint_name(item->path().filename().string());
    std::error_code ignored;
    if (name && !item->is_directory(ignored)) found.push_back({item->path(), *name});
  }
  if (error) {
    throw IoError("cannot list the checkpoint directory {}: {}; check checkpoint.path and its permissions",
                  directory.string(), error.message());
  }
  std::sort(found.begin(), found.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.name.generation, a.path) < std::pair(b.name.generation, b.path);
  });
  return found;
}

bool is_manifest(const Entry& entry) {
  return entry.name.kind == Kind::manifest && !entry.name.partial;
}

/// Manifest readable, files there with their sizes: what can be known without reading everything.
bool looks_whole(const CheckpointDirectory& directory, std::int64_t generation) {
  try {
    for (const auto& file : directory.read(generation).files) {
      if (fs::file_size(directory.path() / file.name) != file.bytes) return false;
    }
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

/// Manifests first, and surely: a generation whose files are gone must not look like one.
void remove_in_order(const fs::path& directory, const std::vector<Entry>& to_remove,
                     const std::function<void(const fs::path&, const std::string&)>& on_manifest_error) {
  const auto remove = [](const Entry& entry) {
    std::error_code error;
    fs::remove(entry.path, error);
    return error;
  };
  bool removed_manifest = false;
  std::set<std::int64_t> stays;  // generations whose manifest would not go
  for (const Entry& entry : to_remove) {
    if (!is_manifest(entry)) continue;
    if (const auto error = remove(entry)) {
      stays.insert(entry.name.generation);
      on_manifest_error(entry.path, error.message());
    }
    removed_manifest = true;
  }
  if (removed_manifest) sync_directory(directory);
  for (const Entry& entry : to_remove) {
    if (is_manifest(entry) || stays.contains(entry.name.generation)) continue;
    if (const auto error = remove(entry)) {
      log::warn("cannot remove {} of an old checkpoint: {}", entry.path.string(), error.message());
    }
  }
}

void warn_of_manifest(const fs::path& path, const std::string& reason) {
  log::warn("cannot remove {} of an old checkpoint, its files stay as well: {}", path.string(), reason);
}

template <typename Work>
void with_warnings(Work work) {
  try {
    work();
  } catch (const Error& error) {
    log::warn("old checkpoints could not be tidied up: {}", error.what());
  }
}

}  // namespace

bool CheckpointDirectory::exists() const {
  return !generations().empty();
}

void CheckpointDirectory::create() const {
  std::error_code error;
  if (fs::is_directory(directory_, error)) return;
  fs::create_directories(directory_, error);
  if (error) {
    throw IoError("cannot make the checkpoint directory {}: {}; check checkpoint.path and its permissions",
                  directory_.string(), error.message());
  }
  const fs::path parent = fs::absolute(directory_).lexically_normal().parent_path();
  sync_directory(parent);
}

std::vector<std::int64_t> CheckpointDirectory::generations() const {
  std::vector<std::int64_t> numbers;
  for (const Entry& entry : entries(directory_)) {
    if (is_manifest(entry)) numbers.push_back(entry.name.generation);
  }
  std::reverse(numbers.begin(), numbers.end());
  return numbers;
}

std::int64_t CheckpointDirectory::next_generation() const {
  const std::vector<Entry> all = entries(directory_);
  return all.empty() ? 1 : all.back().name.generation + 1;
}

CheckpointManifest CheckpointDirectory::read(std::int64_t generation) const {
  CheckpointManifest expected;
  expected.generation = generation;
  const fs::path path = directory_ / expected.file_name();
  CheckpointManifest manifest = read_checkpoint_manifest(path);
  if (manifest.generation != generation) {
    throw InputError("{} is the manifest of generation {}: somebody renamed it", path.string(),
                     manifest.generation);
  }
  return manifest;
}

void CheckpointDirectory::verify_file(const CheckpointManifest::File& file) const {
  const fs::path path = directory_ / file.name;
  std::error_code error;
  const std::uintmax_t bytes = fs::file_size(path, error);
  if (error) throw InputError("{} of the checkpoint cannot be used: {}", path.string(), error.message());
  if (bytes != file.bytes) {
    throw InputError("{} of the checkpoint has {} bytes instead of {}", path.string(), bytes, file.bytes);
  }
  std::string found;
  try {
    found = sha256_of_file(path);
  } catch (const IoError& reason) {
    throw InputError("{}", reason.what());  // a file that cannot be read is as good as a damaged one
  }
  if (found == file.sha256) return;
  throw InputError("{} of the checkpoint is damaged: its SHA-256 is {} instead of {}", path.string(), found,
                   file.sha256);
}

void CheckpointDirectory::commit(const CheckpointManifest& manifest) const {
  if (!manifest.files.empty()) {
    std::vector<fs::path> files;
    for (const auto& file : manifest.files) files.push_back(directory_ / file.name);
    try {
      write_view_file(directory_ / checkpoint_view_name(manifest.generation), files);
    } catch (const Error& error) {
      log::warn("generation {} of the checkpoint has no view for h5py, which does not matter to the job: {}",
                manifest.generation, error.what());
    }
  }
  write_file(directory_ / manifest.file_name(), to_json(manifest));
}

void CheckpointDirectory::prune(std::int64_t keep, std::int64_t writing) const {
  with_warnings([&] {
    const std::vector<std::int64_t> all = generations();
    std::set<std::int64_t> kept;
    for (const std::int64_t generation : all) {
      if (static_cast<std::int64_t>(kept.size()) == keep) break;
      if (looks_whole(*this, generation)) kept.insert(generation);
    }
    if (!all.empty() && kept.empty()) return;
    std::vector<Entry> to_remove;
    for (const Entry& entry : entries(directory_)) {
      const std::int64_t generation = entry.name.generation;
      const bool keeps = generation == writing || (kept.contains(generation) && !entry.name.partial);
      if (!keeps) to_remove.push_back(entry);
    }
    remove_in_order(directory_, to_remove, warn_of_manifest);
  });
}

void CheckpointDirectory::discard(std::int64_t generation) const {
  with_warnings([&] {
    std::vector<Entry> to_remove = entries(directory_);
    std::erase_if(to_remove, [&](const Entry& entry) { return entry.name.generation != generation; });
    remove_in_order(directory_, to_remove, warn_of_manifest);
  });
}

void CheckpointDirectory::remove_all() const {
  const std::vector<Entry> all = entries(directory_);
  if (!all.empty()) {
    remove_in_order(directory_, all, [](const fs::path& path, const std::string& reason) {
      throw IoError("cannot remove {} of an old checkpoint: {}; remove it by hand", path.string(), reason);
    });
  }
  std::error_code ignored;
  fs::remove(directory_, ignored);  // not if something else lies there
}

}  // namespace gptq
