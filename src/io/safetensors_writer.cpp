#include "io/safetensors_writer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/file.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;
using NamedTensors = std::vector<std::pair<std::string, TensorInfo>>;

constexpr std::size_t kCopyBytes = 16 << 20;

std::uint64_t bytes_of(const TensorInfo& info) {
  std::uint64_t bytes = size_of(info.dtype);
  for (const std::int64_t extent : info.shape) bytes *= static_cast<std::uint64_t>(extent);
  return bytes;
}

std::string hash_of(const File& file, std::uint64_t bytes) {
  Sha256 hash;
  std::vector<std::byte> buffer(std::min<std::uint64_t>(kCopyBytes, bytes));
  for (std::uint64_t offset = 0; offset < bytes; offset += buffer.size()) {
    const std::size_t count = std::min<std::uint64_t>(buffer.size(), bytes - offset);
    file.read_at(buffer.data(), count, offset);
    hash.update(buffer.data(), count);
  }
  return hash.hex();
}

}  // namespace

struct SafetensorsWriter::State {
  fs::path path;
  fs::path partial;
  std::map<std::string, TensorInfo> missing;  ///< tensors that were not written yet
  std::set<std::string> written;
  std::uint64_t bytes = 0;
  std::unique_ptr<File> file;
  bool unsynced = true;
  bool keep = false;
  bool joined = false;  ///< another process made the file
  bool shared = false;  ///< another process has written a part of it

  State(const fs::path& final_path, const SafetensorsLayout& layout)
      : path(final_path), partial(partial_path(final_path)), bytes(layout.bytes) {
    for (const auto& [name, info] : layout.tensors) GPTQ_EXPECT(missing.emplace(name, info).second);
  }

  /// Where the tensor goes; from then on it counts as written.
  TensorInfo claim(const std::string& name, DType dtype, const std::vector<std::int64_t>& shape) {
    GPTQ_EXPECT(file != nullptr);
    const auto found = missing.find(name);
    if (found == missing.end()) {
      throw Error(ExitCode::internal,
                  fmt::format("tensor '{}' of {} {}", name, path.string(),
                              written.contains(name) ? "is written twice" : "was not announced"));
    }
    const TensorInfo info = found->second;
    if (info.dtype != dtype || info.shape != shape) {
      throw Error(ExitCode::internal,
                  fmt::format("tensor '{}' of {} was announced as {} {}, but comes as {} {}", name,
                              path.string(), name_of(info.dtype), info.shape, name_of(dtype), shape));
    }
    missing.erase(found);
    written.insert(name);
    unsynced = true;
    return info;
  }
};

SafetensorsLayout lay_out_safetensors(NamedTensors tensors) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return size_of(a.second.dtype) > size_of(b.second.dtype);
  });
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  std::uint64_t end = 0;
  for (auto& [name, info] : tensors) {
    info.bytes = bytes_of(info);
    info.offset = end;
    end += info.bytes;
    header[name] = {
        {"dtype", name_of(info.dtype)}, {"shape", info.shape}, {"data_offsets", {info.offset, end}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  text.insert(0, reinterpret_cast<const char*>(&length), sizeof(length));
  for (auto& [name, info] : tensors) info.offset += text.size();
  const std::uint64_t bytes = text.size() + end;
  return {std::move(text), std::move(tensors), bytes};
}

fs::path partial_path(const fs::path& path) {
  fs::path partial = path;
  return partial += ".partial";
}

std::optional<fs::path> earlier_attempt(const fs::path& path) {
  std::error_code ignored;
  for (const fs::path& candidate : {partial_path(path), path}) {
    if (fs::is_regular_file(candidate, ignored)) return candidate;
  }
  return std::nullopt;
}

std::optional<std::string> damage_in_frame(const fs::path& path, const SafetensorsLayout& layout) {
  const File file = File::open(path);
  const std::uint64_t size = file.size();
  if (size != layout.bytes) return fmt::format("has {} bytes instead of {}", size, layout.bytes);
  std::string header(layout.header.size(), '\0');
  file.read_at(header.data(), header.size(), 0);
  if (header != layout.header) return "has another header than this job writes";
  return std::nullopt;
}

fs::path require_frame(const fs::path& path, const SafetensorsLayout& layout) {
  const auto found = earlier_attempt(path);
  if (!found) {
    throw IoError("{} of the attempt before is missing, with and without .partial; start over with --fresh",
                  path.string());
  }
  if (const auto damage = damage_in_frame(*found, layout)) {
    throw IoError("{} of the attempt before {}; start over with --fresh", found->string(), *damage);
  }
  return *found;
}

SafetensorsWriter::SafetensorsWriter(const fs::path& path, NamedTensors tensors) {
  const SafetensorsLayout layout = lay_out_safetensors(std::move(tensors));
  state_ = std::make_unique<State>(path, layout);
  State& s = *state_;
  s.file = std::make_unique<File>(File::create(s.partial));
  try {
    s.file->reserve(s.bytes);
    s.file->write_at(layout.header.data(), layout.header.size(), 0);
  } catch (...) {
    std::error_code ignored;
    fs::remove(s.partial, ignored);  // a constructor that throws has no destructor call to tidy up
    throw;
  }
}

SafetensorsWriter::SafetensorsWriter(const fs::path& path, NamedTensors tensors,
                                     const std::vector<std::string>& written) {
  const SafetensorsLayout layout = lay_out_safetensors(std::move(tensors));
  state_ = std::make_unique<State>(path, layout);
  State& s = *state_;
  s.keep = true;
  const fs::path found = require_frame(path, layout);
  if (found != s.partial) publish_file(found, s.partial);
  s.file = std::make_unique<File>(File::edit(s.partial));
  s.file->reserve(s.bytes);  // a copy of the job's directory may have lost the claim
  for (const std::string& name : written) {
    GPTQ_EXPECT(s.missing.erase(name) == 1);
    s.written.insert(name);
  }
}

SafetensorsWriter::SafetensorsWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}

std::unique_ptr<SafetensorsWriter> SafetensorsWriter::join(const fs::path& path, NamedTensors tensors) {
  const SafetensorsLayout layout = lay_out_safetensors(std::move(tensors));
  auto state = std::make_unique<State>(path, layout);
  state->keep = state->joined = true;
  std::error_code ignored;
  const std::string missing = "does not exist here: output.path must be the same directory on every node";
  const bool there = fs::is_regular_file(state->partial, ignored);
  if (const auto damage = there ? damage_in_frame(state->partial, layout) : missing)
    throw IoError("{}, which the first rank has made, {}", state->partial.string(), *damage);
  state->file = std::make_unique<File>(File::edit(state->partial));
  return std::unique_ptr<SafetensorsWriter>(new SafetensorsWriter(std::move(state)));
}

SafetensorsWriter::~SafetensorsWriter() {
  if (state_->file == nullptr || state_->keep) return;
  std::error_code ignored;
  fs::remove(state_->partial, ignored);
}

void SafetensorsWriter::write(const std::string& name, const HostTensor& tensor) {
  const TensorInfo info = state_->claim(name, tensor.dtype, tensor.shape);
  state_->file->write_at(tensor.storage.data(), info.bytes, info.offset);
}

void SafetensorsWriter::copy(const std::string& name, const SafetensorsReader& source, Sha256* hash) {
  const TensorInfo& from = source.info(name);
  const TensorInfo to = state_->claim(name, from.dtype, from.shape);
  const File input = File::open(source.directory() / from.file);
  std::vector<std::byte> buffer(std::min<std::uint64_t>(kCopyBytes, to.bytes));
  for (std::uint64_t done = 0; done < to.bytes; done += buffer.size()) {
    const std::size_t count = std::min<std::uint64_t>(buffer.size(), to.bytes - done);
    input.read_at(buffer.data(), count, from.offset + done);
    state_->file->write_at(buffer.data(), count, to.offset + done);
    if (hash != nullptr) hash->update(buffer.data(), count);
  }
}

void SafetensorsWriter::written_elsewhere(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    GPTQ_EXPECT(state_->missing.erase(name) == 1);
    state_->written.insert(name);
  }
  state_->shared = true;
}

bool SafetensorsWriter::complete() const {
  return state_->missing.empty();
}

std::uint64_t SafetensorsWriter::bytes() const {
  return state_->bytes;
}

void SafetensorsWriter::sync() {
  State& s = *state_;
  if (s.file == nullptr || !s.unsynced) return;
  s.file->sync();
  s.unsynced = false;
}

void SafetensorsWriter::keep_partial() {
  state_->keep = true;
}

std::string SafetensorsWriter::finish() {
  State& s = *state_;
  GPTQ_EXPECT(s.file != nullptr && !s.joined);
  if (!complete()) {
    throw Error(ExitCode::internal, fmt::format("{} tensors of {} were never written, '{}' first",
                                                s.missing.size(), s.path.string(), s.missing.begin()->first));
  }
  s.file->sync();
  if (s.shared) {  // a network file system shows what others wrote to those who open the file after that
    s.file->close();
    *s.file = File::edit(s.partial);
  }
  const std::string hash = hash_of(*s.file, s.bytes);
  s.file->close();
  publish_file(s.partial, s.path);
  s.file.reset();
  return hash;
}

std::uint64_t safetensors_file_bytes(const NamedTensors& tensors) {
  return lay_out_safetensors(tensors).bytes;
}

}  // namespace gptq
