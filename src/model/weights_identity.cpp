#include "model/weights_identity.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>

#include "base/file.h"
#include "base/sha256.h"

namespace gptq {
namespace {

constexpr std::uint64_t kSampleBytes = 4096;

void add_samples(const File& file, const TensorInfo& info, Sha256& hash) {
  std::array<std::byte, kSampleBytes> bytes;
  const std::uint64_t count = std::min(kSampleBytes, info.bytes);
  for (const std::uint64_t first : {std::uint64_t{0}, (info.bytes - count) / 2, info.bytes - count}) {
    file.read_at(bytes.data(), count, info.offset + first);
    hash.update(bytes.data(), count);
  }
}

}  // namespace

std::string weights_sha256(const SafetensorsReader& files) {
  Sha256 hash;
  std::map<std::string, File> open;
  for (const auto& [name, info] : files.tensors()) {
    const std::string line = fmt::format("{} {} {} {} {} {}\n", name, name_of(info.dtype), fmt::join(info.shape, "x"),
                                         info.file, info.offset, info.bytes);
    hash.update(line.data(), line.size());
    auto file = open.find(info.file);
    if (file == open.end()) file = open.emplace(info.file, File::open(files.directory() / info.file)).first;
    add_samples(file->second, info, hash);
  }
  return hash.hex();
}

}  // namespace gptq
