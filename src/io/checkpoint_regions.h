#pragma once

// Private to src/io.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/tensor.h"

namespace gptq {

/// A stretch of a file and the memory whose bytes it holds.
class FileRegion {
 public:
  FileRegion(std::string name, std::uint64_t offset, const Matrix& matrix);
  FileRegion(std::string name, std::uint64_t offset, std::vector<std::byte> content);
  FileRegion(FileRegion&&) = default;
  FileRegion& operator=(FileRegion&&) = default;

  const std::string& name() const { return name_; }
  std::uint64_t offset() const { return offset_; }
  std::uint64_t bytes() const { return static_cast<std::uint64_t>(rows_) * row_bytes_; }
  std::uint64_t end() const { return offset_ + bytes(); }
  /// Bytes [first, first + count) of the region: a pointer into the memory itself where it has no gaps, else
  /// into `scratch`, which receives a copy.
  const std::byte* piece(std::uint64_t first, std::size_t count, std::vector<std::byte>& scratch) const;

 private:
  std::string name_;
  std::uint64_t offset_ = 0;
  std::vector<std::byte> own_;
  const std::byte* data_ = nullptr;
  std::int64_t rows_ = 0;
  std::size_t row_bytes_ = 0;
  std::size_t stride_bytes_ = 0;
};

inline constexpr std::size_t kFilePieceBytes = 16 << 20;

void write_region(const File& file, const FileRegion& region);

/// Reads the whole file once, piece by piece; returns its SHA-256. The regions must cover it, in ascending
/// order. Throws IoError, naming file, place and region, where the file holds other bytes than the memory.
std::string hash_and_compare(const File& file, const std::filesystem::path& path,
                             const std::vector<FileRegion>& regions);

}  // namespace gptq
