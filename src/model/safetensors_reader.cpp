#include "model/safetensors_reader.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>

#include "base/error.h"
#include "base/file.h"
#include "config/nearest.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr std::uint64_t kLengthBytes = 8;

/// Goes through JSON text and notes the first key that occurs twice at the top level. (A callback of
/// json::parse() would see the same, but costs a walk through all keys for each of them.)
class RepeatedKey : public nlohmann::json_sax<json> {
 public:
  const std::optional<std::string>& found() const { return found_; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(json::number_integer_t) override { return true; }
  bool number_unsigned(json::number_unsigned_t) override { return true; }
  bool number_float(json::number_float_t, const json::string_t&) override { return true; }
  bool string(json::string_t&) override { return true; }
  bool binary(json::binary_t&) override { return true; }
  bool start_object(std::size_t) override { return enter(); }
  bool end_object() override { return leave(); }
  bool start_array(std::size_t) override { return enter(); }
  bool end_array() override { return leave(); }
  bool parse_error(std::size_t, const std::string&, const json::exception&) override { return false; }
  bool key(json::string_t& name) override {
    if (depth_ != 1 || names_.insert(name).second) return true;
    found_ = name;
    return false;
  }

 private:
  bool enter() {
    depth_ += 1;
    return true;
  }
  bool leave() {
    depth_ -= 1;
    return true;
  }

  int depth_ = 0;
  std::unordered_set<std::string> names_;
  std::optional<std::string> found_;
};

/// Parses, refusing a key that occurs twice at the top level: the last one would silently win.
json parse_header(const std::string& text, const fs::path& path) {
  RepeatedKey repeated;
  json::sax_parse(text, &repeated);
  if (repeated.found())
    throw InputError("{}: tensor '{}' occurs twice in the header", path.string(), *repeated.found());
  try {
    json header = json::parse(text);
    if (!header.is_object()) throw InputError("{}: the header is not a JSON object", path.string());
    return header;
  } catch (const json::exception& error) {
    throw InputError("{}: the header is no valid JSON ({}); is this a safetensors file?", path.string(),
                     error.what());
  }
}

std::uint64_t natural(const json& value, const fs::path& path, const std::string& name, const char* what) {
  if (!value.is_number_unsigned()) {
    throw InputError("{}: tensor '{}': {} must be whole numbers >= 0, not {}", path.string(), name, what,
                     value.dump());
  }
  return value.get<std::uint64_t>();
}

/// Bytes of dtype × shape, or an error where the product leaves 63 bits.
std::uint64_t expected_bytes(const TensorInfo& info, const fs::path& path, const std::string& name) {
  const bool empty = std::count(info.shape.begin(), info.shape.end(), 0) > 0;
  std::uint64_t bytes = empty ? 0 : size_of(info.dtype);
  for (const std::int64_t extent : info.shape) {
    const bool overflow =
        __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(extent), &bytes) || bytes >> 63 != 0;
    if (overflow) {
      throw InputError("{}: tensor '{}': shape {} is impossibly large", path.string(), name, info.shape);
    }
  }
  return bytes;
}

/// One entry of the header; offset is still relative to the data section.
TensorInfo parse_entry(const json& entry, const fs::path& path, const std::string& name) {
  const bool complete = entry.is_object() && entry.contains("dtype") && entry["dtype"].is_string() &&
                        entry.contains("shape") && entry["shape"].is_array() &&
                        entry.contains("data_offsets") && entry["data_offsets"].is_array() &&
                        entry["data_offsets"].size() == 2;
  if (!complete) {
    throw InputError("{}: tensor '{}' needs dtype, shape and two data_offsets in the header", path.string(),
                     name);
  }
  TensorInfo info;
  info.file = path.filename().string();
  try {
    info.dtype = dtype_from_name(entry["dtype"].get<std::string>());
  } catch (const InputError& error) {
    throw InputError("{}: tensor '{}': {}", path.string(), name, error.what());
  }
  for (const json& extent : entry["shape"]) {
    const std::uint64_t value = natural(extent, path, name, "the shape");
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      throw InputError("{}: tensor '{}': shape {} is impossibly large", path.string(), name,
                       entry["shape"].dump());
    }
    info.shape.push_back(static_cast<std::int64_t>(value));
  }
  info.offset = natural(entry["data_offsets"][0], path, name, "data_offsets");
  const std::uint64_t end = natural(entry["data_offsets"][1], path, name, "data_offsets");
  const std::uint64_t bytes = expected_bytes(info, path, name);
  if (end < info.offset || end - info.offset != bytes) {
    throw InputError("{}: tensor '{}': {} {} takes {} bytes, but data_offsets are [{}, {}]", path.string(),
                     name, name_of(info.dtype), info.shape, bytes, info.offset, end);
  }
  info.bytes = bytes;
  return info;
}

/// The tensors must fill the data section without holes, overlaps or rest; then no offset can lie outside.
void check_layout(const std::map<std::string, TensorInfo>& tensors, std::uint64_t data_bytes,
                  const fs::path& path) {
  std::vector<std::pair<const std::string*, const TensorInfo*>> ordered;
  for (const auto& [name, info] : tensors) ordered.emplace_back(&name, &info);
  std::sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->offset, a.second->bytes) < std::pair(b.second->offset, b.second->bytes);
  });
  std::uint64_t end = 0;
  const std::string* previous = nullptr;
  for (const auto& [name, info] : ordered) {
    if (info->offset < end) {
      throw InputError("{}: tensors '{}' and '{}' overlap", path.string(), *previous, *name);
    }
    if (info->offset > end) {
      throw InputError("{}: {} bytes before tensor '{}' belong to no tensor", path.string(),
                       info->offset - end, *name);
    }
    end += info->bytes;
    previous = name;
  }
  if (end > data_bytes) {
    throw InputError("{} is truncated: {} bytes are missing (of {} bytes of tensors); fetch the file again",
                     path.string(), end - data_bytes, end);
  }
  if (end < data_bytes) {
    throw InputError("{}: {} bytes after the last tensor belong to no tensor", path.string(),
                     data_bytes - end);
  }
}

File open_input(const fs::path& path) {
  try {
    return File::open(path);
  } catch (const IoError& error) {
    throw InputError("{}", error.what());
  }
}

/// Why a directory has no safetensors, as helpfully as its content allows.
[[noreturn]] void explain_absence(const fs::path& directory) {
  std::error_code ignored;
  if (!fs::exists(directory, ignored))
    throw InputError("model directory {} does not exist", directory.string());
  if (!fs::is_directory(directory, ignored)) {
    throw InputError("{} is not a directory; a model is a directory with config.json and *.safetensors",
                     directory.string());
  }
  std::string hint = "is this a Hugging Face model directory?";
  for (const auto& entry : fs::directory_iterator(directory, ignored)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".gguf") {
      hint = fmt::format("it holds {}: convert the model to safetensors first",
                         entry.path().filename().string());
    }
    if (extension == ".partial")
      hint = "it holds *.partial files: a job that was writing it has not finished";
  }
  throw InputError("{} holds neither model.safetensors nor model.safetensors.index.json; {}",
                   directory.string(), hint);
}

}  // namespace

std::map<std::string, TensorInfo> read_safetensors_header(const fs::path& path) {
  const File file = open_input(path);
  const std::uint64_t size = file.size();
  if (size < kLengthBytes) {
    throw InputError("{} is truncated: {} bytes are too few for a safetensors file; fetch the file again",
                     path.string(), size);
  }
  std::uint64_t length = 0;
  file.read_at(&length, kLengthBytes, 0);
  if (length > kMaxHeaderBytes) {
    throw InputError(
        "{}: a header of {} bytes is above the format's limit of {}; is this a safetensors file?",
        path.string(), length, kMaxHeaderBytes);
  }
  if (length > size - kLengthBytes) {
    throw InputError("{} is truncated: {} bytes of its header are missing; fetch the file again",
                     path.string(), length - (size - kLengthBytes));
  }
  std::string text(length, '\0');
  file.read_at(text.data(), text.size(), kLengthBytes);

  const json header = parse_header(text, path);
  const std::uint64_t data_start = kLengthBytes + length;
  std::map<std::string, TensorInfo> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name != "__metadata__") tensors.emplace(name, parse_entry(entry, path, name));
  }
  check_layout(tensors, size - data_start, path);
  for (auto& [name, info] : tensors) info.offset += data_start;
  return tensors;
}

SafetensorsReader::SafetensorsReader(const fs::path& model_directory) : directory_(model_directory) {
  std::error_code ignored;
  const fs::path index = directory_ / "model.safetensors.index.json";
  if (fs::exists(directory_ / "model.safetensors", ignored)) {
    read_header("model.safetensors");
  } else if (fs::exists(index, ignored)) {
    read_index(index);
  } else {
    explain_absence(directory_);
  }
}

void SafetensorsReader::read_index(const fs::path& path) {
  json index;
  try {
    index = json::parse(read_text_file(path));
  } catch (const std::exception& error) {
    throw InputError("{} cannot be read: {}", path.string(), error.what());
  }
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw InputError("{}: the object 'weight_map' (tensor name to file name) is missing", path.string());
  }
  std::map<std::string, std::string> first_tensor;  // of each file
  for (const auto& [name, file] : index["weight_map"].items()) {
    const std::string text = file.is_string() ? file.get<std::string>() : "";
    const bool plain =
        !text.empty() && text.find_first_of("/\\") == std::string::npos && text != "." && text != "..";
    if (!plain) {
      throw InputError(
          "{}: tensor '{}' is said to lie in {}, which is no plain file name inside the directory",
          path.string(), name, file.dump());
    }
    first_tensor.emplace(text, name);
  }
  for (const auto& [file, name] : first_tensor) {
    if (!fs::exists(directory_ / file)) {
      throw InputError("{} names the file {} (for tensor '{}'), which does not exist; fetch the model again",
                       path.string(), file, name);
    }
    read_header(file);
  }
  for (const auto& [name, file] : index["weight_map"].items()) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end() || found->second.file != file.get<std::string>()) {
      throw InputError("{} says that tensor '{}' lies in {}, but it does not", path.string(), name,
                       file.get<std::string>());
    }
  }
}

void SafetensorsReader::read_header(const std::string& file) {
  for (auto& [name, info] : read_safetensors_header(directory_ / file)) {
    const auto [place, inserted] = tensors_.emplace(name, info);
    if (!inserted) {
      throw InputError("tensor '{}' is in two files of {}: {} and {}", name, directory_.string(),
                       place->second.file, file);
    }
  }
}

const TensorInfo& SafetensorsReader::info(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return found->second;
  std::vector<std::string> names;
  for (const auto& [known, info] : tensors_) names.push_back(known);
  throw InputError("{} has no tensor '{}'{}", directory_.string(), name, nearest_hint("name", name, names));
}

HostTensor SafetensorsReader::read(const std::string& name) const {
  const TensorInfo& where = info(name);
  HostTensor tensor = make_tensor(where.dtype, where.shape);
  read_into(name, tensor.storage.data());
  return tensor;
}

void SafetensorsReader::read_into(const std::string& name, std::byte* to) const {
  const TensorInfo& where = info(name);
  open_input(directory_ / where.file).read_at(to, where.bytes, where.offset);
}

}  // namespace gptq
