#include "backend/backend.h"

namespace gptq {

DeviceBuffer to_device(Backend& backend, const void* host, std::size_t bytes) {
  DeviceBuffer buffer = backend.allocate(bytes);
  backend.upload(buffer.data(), host, bytes);
  return buffer;
}

}  // namespace gptq
