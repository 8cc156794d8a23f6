#include "io/safetensors_writer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/sha256.h"

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

/// Header text with its length in front; fills in the tensors' offset (from the file's start) and bytes.
std::string lay_out(NamedTensors& tensors) {
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
  return text;
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
    return info;
  }
};

SafetensorsWriter::SafetensorsWriter(const fs::path& path, NamedTensors tensors)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.path = path;
  s.partial = path;
  s.partial += ".partial";
  const std::string header = lay_out(tensors);
  s.bytes = header.size();
  for (const auto& [name, info] : tensors) {
    s.bytes += info.bytes;
    GPTQ_EXPECT(s.missing.emplace(name, info).second);
  }
  s.file = std::make_unique<File>(File::create(s.partial));
  try {
    s.file->reserve(s.bytes);
    s.file->write_at(header.data(), header.size(), 0);
  } catch (...) {
    std::error_code ignored;
    fs::remove(s.partial, ignored);  // a constructor that throws has no destructor call to tidy up
    throw;
  }
}

SafetensorsWriter::~SafetensorsWriter() {
  if (state_->file == nullptr) return;
  std::error_code ignored;
  fs::remove(state_->partial, ignored);
}

void SafetensorsWriter::write(const std::string& name, const HostTensor& tensor) {
  const TensorInfo info = state_->claim(name, tensor.dtype, tensor.shape);
  state_->file->write_at(tensor.storage.data(), info.bytes, info.offset);
}

void SafetensorsWriter::copy(const std::string& name, const SafetensorsReader& source) {
  const TensorInfo& from = source.info(name);
  const TensorInfo to = state_->claim(name, from.dtype, from.shape);
  const File input = File::open(source.directory() / from.file);
  std::vector<std::byte> buffer(std::min<std::uint64_t>(kCopyBytes, to.bytes));
  for (std::uint64_t done = 0; done < to.bytes; done += buffer.size()) {
    const std::size_t count = std::min<std::uint64_t>(buffer.size(), to.bytes - done);
    input.read_at(buffer.data(), count, from.offset + done);
    state_->file->write_at(buffer.data(), count, to.offset + done);
  }
}

bool SafetensorsWriter::complete() const {
  return state_->missing.empty();
}

std::uint64_t SafetensorsWriter::bytes() const {
  return state_->bytes;
}

std::string SafetensorsWriter::finish() {
  State& s = *state_;
  GPTQ_EXPECT(s.file != nullptr);
  if (!complete()) {
    throw Error(ExitCode::internal, fmt::format("{} tensors of {} were never written, '{}' first",
                                                s.missing.size(), s.path.string(), s.missing.begin()->first));
  }
  s.file->sync();
  const std::string hash = hash_of(*s.file, s.bytes);
  s.file->close();
  publish_file(s.partial, s.path);
  s.file.reset();
  return hash;
}

std::uint64_t safetensors_file_bytes(const NamedTensors& tensors) {
  NamedTensors copy = tensors;
  std::uint64_t bytes = lay_out(copy).size();
  for (const auto& [name, info] : copy) bytes += info.bytes;
  return bytes;
}

}  // namespace gptq
