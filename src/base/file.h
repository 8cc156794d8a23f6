#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

namespace gptq {

/// Owns a file descriptor. Every member throws IoError with the file, the reason and what to do about it.
class File {
 public:
  static File open(const std::filesystem::path& path);  ///< for reading
  static File create(
      const std::filesystem::path& path);  ///< for reading and writing; emptied; mode 0644 & ~umask
  static File edit(const std::filesystem::path& path);  ///< for reading and writing what is there already
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  std::uint64_t size() const;
  /// All of the bytes, from `offset`; a file that ends earlier is an error.
  void read_at(void* data, std::size_t bytes, std::uint64_t offset) const;
  void write_at(const void* data, std::size_t bytes, std::uint64_t offset) const;
  /// Makes the file this long and claims the room on disk, so that a full disk is known now. File systems
  /// that cannot claim room only set the length.
  void reserve(std::uint64_t bytes) const;
  void sync() const;  ///< the data is on disk when this returns
  /// Asks the kernel to forget its copy of what sync() brought to disk, so that the next read comes from the disk.
  /// File systems in memory cannot; nothing depends on it but how much a read-back proves.
  void drop_from_cache() const;
  void close();  ///< what a destructor does, but errors are reported

 private:
  File(int descriptor, std::filesystem::path path) : descriptor_(descriptor), path_(std::move(path)) {}
  int descriptor_ = -1;
  std::filesystem::path path_;
};

/// Names made in or removed from the directory until now stay so, whatever happens to the machine.
void sync_directory(const std::filesystem::path& directory);

/// Gives `from` its final name `to`, surely: the directory is synced as well.
void publish_file(const std::filesystem::path& from, const std::filesystem::path& to);

/// Replaces `path` by this text in one step: a reader sees the old file or the new one, never half of it.
void write_file(const std::filesystem::path& path, std::string_view text);

std::string read_text_file(const std::filesystem::path& path);

}  // namespace gptq
