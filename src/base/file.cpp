#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace gptq {
namespace {

/// What a person can do about an errno.
const char* advice(int code) {
  switch (code) {
    case ENOSPC:
      return "free space there or choose another directory";
    case EDQUOT:
      return "your disk quota is used up: free space or choose another directory";
    case EFBIG:
      return "the file system or `ulimit -f` does not allow a file this large";
    case EACCES:
    case EPERM:
      return "check the permissions of the file and its directories";
    case EROFS:
      return "the file system is mounted read-only";
    case ENOENT:
      return "check the path";
    case ENOTDIR:
      return "a part of the path is a file, not a directory";
    case EMFILE:
    case ENFILE:
      return "too many open files: raise `ulimit -n`";
    case EIO:
      return "the disk or the network file system reports damage";
    default:
      return "check the file system";
  }
}

[[noreturn]] void fail(const std::string& what, const std::filesystem::path& path, int code) {
  throw IoError("cannot {} {}: {}; {}", what, path.string(), std::strerror(code), advice(code));
}

int open_or_fail(const std::filesystem::path& path, int flags, const char* what) {
  const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
  if (descriptor < 0) fail(what, path, errno);
  return descriptor;
}

}  // namespace

File File::open(const std::filesystem::path& path) {
  return {open_or_fail(path, O_RDONLY, "open"), path};
}

File File::create(const std::filesystem::path& path) {
  return {open_or_fail(path, O_RDWR | O_CREAT | O_TRUNC, "create"), path};
}

File File::edit(const std::filesystem::path& path) {
  return {open_or_fail(path, O_RDWR, "open"), path};
}

File::File(File&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), path_(std::move(other.path_)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::uint64_t File::size() const {
  struct stat status {};
  if (fstat(descriptor_, &status) != 0) fail("find the size of", path_, errno);
  if (!S_ISREG(status.st_mode)) throw IoError("{} is not a regular file", path_.string());
  return static_cast<std::uint64_t>(status.st_size);
}

void File::read_at(void* data, std::size_t bytes, std::uint64_t offset) const {
  auto* cursor = static_cast<std::byte*>(data);
  while (bytes > 0) {
    const ssize_t count = pread(descriptor_, cursor, bytes, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("read", path_, errno);
    if (count == 0) {
      throw IoError("{} ends {} bytes early, at byte {}: it was cut off, fetch or write it again",
                    path_.string(), bytes, offset);
    }
    cursor += count;
    bytes -= static_cast<std::size_t>(count);
    offset += static_cast<std::uint64_t>(count);
  }
}

void File::write_at(const void* data, std::size_t bytes, std::uint64_t offset) const {
  const auto* cursor = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    const ssize_t count = pwrite(descriptor_, cursor, bytes, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(fmt::format("write {} bytes to", bytes), path_, errno);
    cursor += count;
    bytes -= static_cast<std::size_t>(count);
    offset += static_cast<std::uint64_t>(count);
  }
}

void File::reserve(std::uint64_t bytes) const {
  const std::string what = fmt::format("claim {} bytes for", bytes);
  if (bytes > 0 && fallocate(descriptor_, 0, 0, static_cast<off_t>(bytes)) == 0) return;
  const bool unsupported = bytes == 0 || errno == EOPNOTSUPP || errno == ENOSYS || errno == EINTR;
  if (!unsupported) fail(what, path_, errno);
  if (ftruncate(descriptor_, static_cast<off_t>(bytes)) != 0) fail(what, path_, errno);
}

void File::sync() const {
  if (fsync(descriptor_) != 0) fail("bring to disk", path_, errno);
}

void File::drop_from_cache() const {
  posix_fadvise(descriptor_, 0, 0, POSIX_FADV_DONTNEED);
}

void File::close() {
  if (descriptor_ < 0) return;
  const int result = ::close(std::exchange(descriptor_, -1));
  if (result != 0 && errno != EINTR) fail("close", path_, errno);
}

void sync_directory(const std::filesystem::path& directory) {
  const int descriptor = open_or_fail(directory, O_RDONLY | O_DIRECTORY, "open");
  const int result = fsync(descriptor);
  const int code = errno;
  ::close(descriptor);
  // Some network file systems do not sync directories; they order metadata themselves.
  if (result != 0 && code != EINVAL && code != ENOTSUP) fail("bring to disk", directory, code);
}

void publish_file(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) fail("rename to", to, errno);
  sync_directory(to.has_parent_path() ? to.parent_path() : ".");
}

void write_file(const std::filesystem::path& path, std::string_view text) {
  std::filesystem::path partial = path;
  partial += ".partial";
  try {
    File file = File::create(partial);
    file.write_at(text.data(), text.size(), 0);
    file.sync();
    file.close();
    publish_file(partial, path);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(partial, ignored);
    throw;
  }
}

std::string read_text_file(const std::filesystem::path& path) {
  const File file = File::open(path);
  std::string text(file.size(), '\0');
  file.read_at(text.data(), text.size(), 0);
  return text;
}

}  // namespace gptq
