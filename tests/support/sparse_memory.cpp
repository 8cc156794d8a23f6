#include "support/sparse_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

namespace gptq::test {
namespace {

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

void* reserve(std::size_t bytes) {
  void* const memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  return memory;
}

}  // namespace

SparseMemory::SparseMemory(std::size_t bytes) : memory_(reserve(bytes)), bytes_(bytes) {
  madvise(memory_, bytes_, MADV_NOHUGEPAGE);  // else a written page takes 512
}

SparseMemory::~SparseMemory() {
  if (memory_ != nullptr) munmap(memory_, bytes_);
}

RepeatedMemory::RepeatedMemory(std::size_t bytes, std::int64_t value) {
  bytes_ = (bytes + kPiece - 1) / kPiece * kPiece;
  memory_ = reserve(bytes_);
  const int file = memfd_create("repeated", 0);
  if (file < 0 || ftruncate(file, static_cast<off_t>(kPiece)) != 0) fail("memfd_create");
  for (std::size_t first = 0; first < bytes_; first += kPiece) {
    void* const place = static_cast<std::byte*>(memory_) + first;
    if (mmap(place, kPiece, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED)
      fail("mmap of a piece");
  }
  close(file);
  std::fill_n(as<std::int64_t>(), kPiece / sizeof(std::int64_t), value);
}

FileMemory::FileMemory(std::size_t bytes) {
  std::string name = (std::filesystem::temp_directory_path() / "gptq-hpc-wide-XXXXXX").string();
  const int file = mkstemp(name.data());
  if (file < 0 || unlink(name.c_str()) != 0 || ftruncate(file, static_cast<off_t>(bytes)) != 0)
    fail("mkstemp");
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory == MAP_FAILED) fail("mmap of a file");
  memory_ = memory;
  bytes_ = bytes;
}

bool wide_tests_wanted() {
  const char* const wish = std::getenv("GPTQ_HPC_WIDE");
  return wish != nullptr && std::string(wish) == "1";
}

std::int64_t environment_number(const char* name, std::int64_t otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::stoll(text);
}

}  // namespace gptq::test
