#include "io/checkpoint_regions.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/sha256.h"

namespace gptq {

FileRegion::FileRegion(std::string name, std::uint64_t offset, const Matrix& matrix)
    : name_(std::move(name)),
      offset_(offset),
      data_(static_cast<const std::byte*>(matrix.data)),
      rows_(matrix.rows),
      row_bytes_(static_cast<std::size_t>(matrix.cols) * size_of(matrix.dtype)),
      stride_bytes_(static_cast<std::size_t>(matrix.stride) * size_of(matrix.dtype)) {
  if (row_bytes_ != stride_bytes_) return;
  row_bytes_ *= static_cast<std::size_t>(rows_);
  stride_bytes_ = row_bytes_;
  rows_ = row_bytes_ == 0 ? 0 : 1;
}

FileRegion::FileRegion(std::string name, std::uint64_t offset, std::vector<std::byte> content)
    : name_(std::move(name)),
      offset_(offset),
      own_(std::move(content)),
      data_(own_.data()),  // stays where it is when the region moves
      rows_(1),
      row_bytes_(own_.size()),
      stride_bytes_(own_.size()) {}

const std::byte* FileRegion::piece(std::uint64_t first, std::size_t count,
                                   std::vector<std::byte>& scratch) const {
  GPTQ_EXPECT(first + count <= bytes());
  if (row_bytes_ == stride_bytes_) return data_ + first;
  scratch.resize(count);
  for (std::size_t done = 0; done < count;) {
    const std::uint64_t row = (first + done) / row_bytes_;
    const std::size_t inside = (first + done) % row_bytes_;
    const std::size_t take = std::min(count - done, row_bytes_ - inside);
    std::memcpy(scratch.data() + done, data_ + row * stride_bytes_ + inside, take);
    done += take;
  }
  return scratch.data();
}

void write_region(const File& file, const FileRegion& region) {
  std::vector<std::byte> scratch;
  for (std::uint64_t done = 0; done < region.bytes();) {
    const std::size_t count = std::min<std::uint64_t>(kFilePieceBytes, region.bytes() - done);
    file.write_at(region.piece(done, count, scratch), count, region.offset() + done);
    done += count;
  }
}

std::string hash_and_compare(const File& file, const std::filesystem::path& path,
                             const std::vector<FileRegion>& regions) {
  const std::uint64_t size = file.size();
  Sha256 hash;
  std::vector<std::byte> buffer(std::min<std::uint64_t>(kFilePieceBytes, size));
  std::vector<std::byte> scratch;
  std::uint64_t place = 0;
  for (const FileRegion& region : regions) {
    GPTQ_EXPECT(region.offset() == place);
    while (place < region.end()) {
      const std::size_t count = std::min<std::uint64_t>(buffer.size(), region.end() - place);
      file.read_at(buffer.data(), count, place);
      const std::byte* expected = region.piece(place - region.offset(), count, scratch);
      if (std::memcmp(buffer.data(), expected, count) != 0) {
        const auto differs = std::mismatch(expected, expected + count, buffer.data()).first - expected;
        throw IoError(
            "{} reads back other bytes than were written, first at byte {} ({}): the disk, the network or "
            "the file "
            "system damages data; choose another checkpoint.path and have the storage checked",
            path.string(), place + static_cast<std::uint64_t>(differs), region.name());
      }
      hash.update(buffer.data(), count);
      place += count;
    }
  }
  GPTQ_EXPECT(place == size);
  return hash.hex();
}

}  // namespace gptq
