#include "pipeline/row_store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace gptq {
namespace {

/// Memory backed by a file that has no name any more.
DeviceBuffer map_file(const std::filesystem::path& directory, std::size_t bytes) {
  const auto failed = [&](const char* what, int error) {
    return IoError(
        "cannot {} a file of {} bytes for activations in {}: {}; choose another compute.spill_path, "
        "or compute.activations: host",
        what, bytes, directory.string(), std::strerror(error));
  };
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  std::string name = (directory / "gptq-hpc-activations-XXXXXX").string();
  const int file = mkostemp(name.data(), O_CLOEXEC);
  if (file < 0) throw failed("make", errno);
  unlink(name.c_str());
  // Reserved now: a disk that fills up later would end the process with a signal.
  const int reserved = posix_fallocate(file, 0, static_cast<off_t>(bytes));
  void* const memory =
      reserved != 0 ? MAP_FAILED : mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  const int map_error = errno;
  close(file);
  if (reserved != 0) throw failed("reserve", reserved);
  if (memory == MAP_FAILED) throw failed("map", map_error);
  return {static_cast<std::byte*>(memory), bytes, nullptr,
          [](void*, std::byte* data, std::size_t size) { munmap(data, size); }};
}

}  // namespace

const char* name_of(Place place) {
  switch (place) {
    case Place::device:
      return "device";
    case Place::host:
      return "host";
    case Place::disk:
      return "disk";
  }
  return "";
}

RowStore::RowStore(Backend& backend, std::size_t bytes, Place place, const std::filesystem::path& spill)
    : backend_(&backend),
      place_(place),
      spill_(spill),
      resident_(place == Place::device || backend.shares_host_memory()) {
  if (bytes == 0) return;
  if (place == Place::disk) {
    memory_ = map_file(spill, bytes);
  } else {
    memory_ = place == Place::device ? backend.allocate(bytes) : backend.allocate_host(bytes);
  }
}

void RowStore::read(std::size_t offset, void* to_host, std::size_t bytes) const {
  GPTQ_EXPECT(offset + bytes <= size());
  if (bytes == 0) return;
  if (resident_) return backend_->download(to_host, data() + offset, bytes);
  std::memcpy(to_host, data() + offset, bytes);
}

void RowStore::write(std::size_t offset, const void* from_host, std::size_t bytes) {
  GPTQ_EXPECT(offset + bytes <= size());
  if (bytes == 0) return;
  if (resident_) return backend_->upload(data() + offset, from_host, bytes);
  std::memcpy(data() + offset, from_host, bytes);
}

RowStore RowStore::copy() const {
  RowStore result(*backend_, size(), place_, spill_);
  result.copy_from(*this);
  return result;
}

void RowStore::copy_from(const RowStore& other) {
  GPTQ_EXPECT(other.size() == size() && other.resident_ == resident_);
  if (size() == 0) return;
  if (resident_) return backend_->copy(data(), other.data(), size());
  std::memcpy(data(), other.data(), size());
}

}  // namespace gptq
