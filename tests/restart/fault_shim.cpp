// Loaded with LD_PRELOAD in front of the C library: the calls that change files, each of them a point where a
// job can be struck. Which call, of which rank, and how, stands in the environment (fault_page.h).
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "restart/fault_plan.h"

using namespace gptq::test;

namespace {

template <typename Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

/// A call that reports errors by -1 (or a null pointer: `failed`) and errno, and that happens wholly or not
/// at all.
template <typename Call, typename Result = decltype(std::declval<Call>()())>
Result guarded(FaultKind kind, const char* name, const std::string& path, Call&& call, Result failed) {
  switch (fault_at(kind, name, path)) {
    case FaultMode::eio:
      errno = EIO;
      return failed;
    case FaultMode::enospc:
    case FaultMode::full:
      errno = ENOSPC;
      return failed;
    case FaultMode::kill:
    case FaultMode::torn:
    case FaultMode::power:
      die_now();
    case FaultMode::hang:
      hang_forever();
    case FaultMode::kill_after:
      call();
      die_now();
    case FaultMode::none:
    case FaultMode::part:
      break;
  }
  return call();
}

/// `write(bytes)` writes that many of the buffer's first bytes. offset: -1: where the file stands.
template <typename Write>
ssize_t guarded_write(const char* name, int descriptor, std::size_t bytes, off_t offset, Write&& write) {
  const std::string path = path_of(descriptor);
  switch (fault_at(FaultKind::write, name, path)) {
    case FaultMode::eio:
      errno = EIO;
      return -1;
    case FaultMode::enospc:
    case FaultMode::full:
      errno = ENOSPC;
      return -1;
    case FaultMode::part:
      bytes = std::max<std::size_t>(bytes / 2, std::min<std::size_t>(bytes, 1));
      break;
    case FaultMode::torn:
      write(bytes / 2);
      die_now();
    case FaultMode::kill_after:
      write(bytes);
      die_now();
    case FaultMode::kill:
    case FaultMode::power:
      die_now();
    case FaultMode::hang:
      hang_forever();
    case FaultMode::none:
      break;
  }
  const ssize_t written = write(bytes);
  if (written > 0 && !path.empty()) {
    unsynced::wrote(path, offset >= 0 ? offset : lseek(descriptor, 0, SEEK_CUR) - written, written);
  }
  return written;
}

bool creates(int flags) {
  return (flags & (O_CREAT | O_TRUNC)) != 0;
}

template <typename Open>
int guarded_open(const char* name, int directory, const char* path, int flags, Open&& open) {
  if (!creates(flags)) return open();
  return guarded(FaultKind::open, name, path_of(directory, path), open, -1);
}

template <typename Open>
FILE* guarded_fopen(const char* path, const char* mode, Open&& open) {
  if (mode[0] == 'r') return open();
  return guarded(FaultKind::open, "fopen", path_of(AT_FDCWD, path), open, static_cast<FILE*>(nullptr));
}

template <typename Sync>
int guarded_sync(const char* name, int descriptor, Sync&& sync) {
  const std::string path = path_of(descriptor);
  const int result = guarded(FaultKind::sync, name, path, sync, -1);
  if (result == 0) unsynced::synced(path);
  return result;
}

template <typename Rename>
int guarded_rename(const std::string& from, const std::string& to, Rename&& rename) {
  struct stat ignored {};
  const bool replaced = stat(to.c_str(), &ignored) == 0;
  const int result = guarded(FaultKind::rename, "rename", to, rename, -1);
  if (result == 0) unsynced::renamed(from, to, replaced);
  return result;
}

mode_t mode_of(int flags, va_list arguments) {
  return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
}

}  // namespace

#define GPTQ_NEXT(function) static auto* const real = next<decltype(function)>(#function)

extern "C" {

int open(const char* path, int flags, ...) {
  GPTQ_NEXT(open);
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return guarded_open("open", AT_FDCWD, path, flags, [&] { return real(path, flags, mode); });
}

int open64(const char* path, int flags, ...) {
  GPTQ_NEXT(open64);
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return guarded_open("open64", AT_FDCWD, path, flags, [&] { return real(path, flags, mode); });
}

int openat(int directory, const char* path, int flags, ...) {
  GPTQ_NEXT(openat);
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return guarded_open("openat", directory, path, flags, [&] { return real(directory, path, flags, mode); });
}

int creat(const char* path, mode_t mode) {
  GPTQ_NEXT(creat);
  return guarded_open("creat", AT_FDCWD, path, O_CREAT, [&] { return real(path, mode); });
}

FILE* fopen(const char* path, const char* mode) {
  GPTQ_NEXT(fopen);
  return guarded_fopen(path, mode, [&] { return real(path, mode); });
}

FILE* fopen64(const char* path, const char* mode) {
  GPTQ_NEXT(fopen64);
  return guarded_fopen(path, mode, [&] { return real(path, mode); });
}

ssize_t write(int descriptor, const void* data, size_t bytes) {
  GPTQ_NEXT(write);
  return guarded_write("write", descriptor, bytes, -1,
                       [&](std::size_t count) { return real(descriptor, data, count); });
}

ssize_t pwrite(int descriptor, const void* data, size_t bytes, off_t offset) {
  GPTQ_NEXT(pwrite);
  return guarded_write("pwrite", descriptor, bytes, offset,
                       [&](std::size_t count) { return real(descriptor, data, count, offset); });
}

ssize_t pwrite64(int descriptor, const void* data, size_t bytes, off64_t offset) {
  GPTQ_NEXT(pwrite64);
  return guarded_write("pwrite64", descriptor, bytes, offset,
                       [&](std::size_t count) { return real(descriptor, data, count, offset); });
}

ssize_t writev(int descriptor, const struct iovec* parts, int count) {
  GPTQ_NEXT(writev);
  const std::string path = path_of(descriptor);
  return guarded(
      FaultKind::write, "writev", path, [&] { return real(descriptor, parts, count); }, ssize_t{-1});
}

ssize_t read(int descriptor, void* data, size_t bytes) {
  GPTQ_NEXT(read);
  return guarded(
      FaultKind::read, "read", path_of(descriptor), [&] { return real(descriptor, data, bytes); },
      ssize_t{-1});
}

ssize_t pread(int descriptor, void* data, size_t bytes, off_t offset) {
  GPTQ_NEXT(pread);
  return guarded(
      FaultKind::read, "pread", path_of(descriptor), [&] { return real(descriptor, data, bytes, offset); },
      ssize_t{-1});
}

ssize_t pread64(int descriptor, void* data, size_t bytes, off64_t offset) {
  GPTQ_NEXT(pread64);
  return guarded(
      FaultKind::read, "pread64", path_of(descriptor), [&] { return real(descriptor, data, bytes, offset); },
      ssize_t{-1});
}

int fsync(int descriptor) {
  GPTQ_NEXT(fsync);
  return guarded_sync("fsync", descriptor, [&] { return real(descriptor); });
}

int fdatasync(int descriptor) {
  GPTQ_NEXT(fdatasync);
  return guarded_sync("fdatasync", descriptor, [&] { return real(descriptor); });
}

int ftruncate(int descriptor, off_t length) noexcept {
  GPTQ_NEXT(ftruncate);
  return guarded(
      FaultKind::claim, "ftruncate", path_of(descriptor), [&] { return real(descriptor, length); }, -1);
}

int ftruncate64(int descriptor, off64_t length) noexcept {
  GPTQ_NEXT(ftruncate64);
  return guarded(
      FaultKind::claim, "ftruncate64", path_of(descriptor), [&] { return real(descriptor, length); }, -1);
}

int fallocate(int descriptor, int mode, off_t offset, off_t length) {
  GPTQ_NEXT(fallocate);
  return guarded(
      FaultKind::claim, "fallocate", path_of(descriptor),
      [&] { return real(descriptor, mode, offset, length); }, -1);
}

int posix_fallocate(int descriptor, off_t offset, off_t length) {
  GPTQ_NEXT(posix_fallocate);  // returns an errno
  const auto call = [&] {
    errno = real(descriptor, offset, length);
    return errno == 0 ? 0 : -1;
  };
  return guarded(FaultKind::claim, "posix_fallocate", path_of(descriptor), call, -1) == 0 ? 0 : errno;
}

int rename(const char* from, const char* to) noexcept {
  GPTQ_NEXT(rename);
  return guarded_rename(path_of(AT_FDCWD, from), path_of(AT_FDCWD, to), [&] { return real(from, to); });
}

int link(const char* from, const char* to) noexcept {
  GPTQ_NEXT(link);
  return guarded(
      FaultKind::rename, "link", path_of(AT_FDCWD, to), [&] { return real(from, to); }, -1);
}

int unlink(const char* path) noexcept {
  GPTQ_NEXT(unlink);
  return guarded(
      FaultKind::unlink, "unlink", path_of(AT_FDCWD, path), [&] { return real(path); }, -1);
}

int unlinkat(int directory, const char* path, int flags) noexcept {
  GPTQ_NEXT(unlinkat);
  return guarded(
      FaultKind::unlink, "unlinkat", path_of(directory, path), [&] { return real(directory, path, flags); },
      -1);
}

int remove(const char* path) noexcept {
  GPTQ_NEXT(remove);
  return guarded(
      FaultKind::unlink, "remove", path_of(AT_FDCWD, path), [&] { return real(path); }, -1);
}

int rmdir(const char* path) noexcept {
  GPTQ_NEXT(rmdir);
  return guarded(
      FaultKind::unlink, "rmdir", path_of(AT_FDCWD, path), [&] { return real(path); }, -1);
}

}  // extern "C"
