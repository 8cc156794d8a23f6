#include <cuda_runtime_api.h>

#include <cstring>
#include <memory>
#include <vector>

#include "tests/cuda_emulation/launch.h"
#include "tests/cuda_emulation/memory.h"
#include "tests/cuda_emulation/streams.h"

/// The CUDA runtime's memory calls. Copies are checked against their direction and the allocations.
namespace {

using emulation::machine_mutex;
using emulation::MemoryKind;
using emulation::note;
using Lock = std::lock_guard<std::recursive_mutex>;

struct Copy {
  void* to = nullptr;
  std::size_t to_pitch = 0;
  const void* from = nullptr;
  std::size_t from_pitch = 0;
  std::size_t width = 0, height = 0;
  cudaMemcpyKind kind = cudaMemcpyDefault;

  std::size_t to_bytes() const { return (height - 1) * to_pitch + width; }
  std::size_t from_bytes() const { return (height - 1) * from_pitch + width; }
  void run() const {
    for (std::size_t y = 0; y < height; ++y)
      std::memmove(static_cast<std::byte*>(to) + y * to_pitch,
                   static_cast<const std::byte*>(from) + y * from_pitch, width);
  }
};

cudaError_t run_copy(Copy copy, cudaStream_t stream, bool wait) {
  const Lock lock(machine_mutex());
  if (copy.width == 0 || copy.height == 0) return emulation::standing();
  if (copy.height > 1 && (copy.width > copy.to_pitch || copy.width > copy.from_pitch))
    return note(cudaErrorInvalidPitchValue);
  bool to_inside = false, from_inside = false;
  const MemoryKind to = emulation::kind_of(copy.to, copy.to_bytes(), to_inside);
  const MemoryKind from = emulation::kind_of(copy.from, copy.from_bytes(), from_inside);
  if (!to_inside || !from_inside) return note(cudaErrorInvalidValue);
  const bool to_device = copy.kind == cudaMemcpyHostToDevice || copy.kind == cudaMemcpyDeviceToDevice;
  const bool from_device = copy.kind == cudaMemcpyDeviceToHost || copy.kind == cudaMemcpyDeviceToDevice;
  if (copy.kind != cudaMemcpyDefault &&
      (to_device != (to == MemoryKind::device) || from_device != (from == MemoryKind::device)))
    return note(cudaErrorInvalidMemcpyDirection);

  if (from == MemoryKind::pageable && !wait) {
    // The driver takes a copy of pageable memory before it returns.
    const auto* bytes = static_cast<const std::byte*>(copy.from);
    auto taken = std::make_shared<std::vector<std::byte>>(bytes, bytes + copy.from_bytes());
    copy.from = taken->data();
    emulation::submit(stream, [copy, taken] { copy.run(); });
  } else {
    emulation::submit(stream, [copy] { copy.run(); });
  }
  if (wait || to == MemoryKind::pageable) emulation::drain(stream);
  return emulation::standing();
}

cudaError_t run_set(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
  const Lock lock(machine_mutex());
  bool inside = false;
  const MemoryKind kind = emulation::kind_of(memory, bytes, inside);
  if (bytes == 0) return emulation::standing();
  if (!inside || kind == MemoryKind::pageable) return note(cudaErrorInvalidValue);
  emulation::submit(stream, [=] { std::memset(memory, value, bytes); });
  return emulation::standing();
}

/// Waits for memory that was given back but not yet reached in its stream before it gives up.
void* allocate_device(std::size_t bytes) {
  void* memory = emulation::allocate(MemoryKind::device, bytes);
  if (memory != nullptr) return memory;
  emulation::drain_all();
  return emulation::allocate(MemoryKind::device, bytes);
}

cudaError_t give(void** result, void* memory) {
  *result = memory;
  return memory == nullptr ? note(cudaErrorMemoryAllocation) : emulation::standing();
}

cudaError_t take_back(MemoryKind kind, void* memory) {
  const Lock lock(machine_mutex());
  if (memory == nullptr) return emulation::standing();
  if (!emulation::retire(kind, memory)) return note(cudaErrorInvalidValue);
  emulation::drain_all();
  emulation::release(memory);
  return emulation::standing();
}

}  // namespace

// ---- allocation

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  const Lock lock(machine_mutex());
  return give(memory, allocate_device(bytes));
}
cudaError_t cudaFree(void* memory) {
  return take_back(MemoryKind::device, memory);
}
cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  return cudaHostAlloc(memory, bytes, cudaHostAllocDefault);
}
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  const Lock lock(machine_mutex());
  return give(memory, emulation::allocate(MemoryKind::pinned, bytes));
}
cudaError_t cudaFreeHost(void* memory) {
  return take_back(MemoryKind::pinned, memory);
}

cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t stream) {
  const Lock lock(machine_mutex());
  void* fresh = allocate_device(bytes);
  // What another stream wrote before the allocation took place is lost.
  if (fresh != nullptr) emulation::submit(stream, [=] { std::memset(fresh, 0xff, bytes); });
  return give(memory, fresh);
}
cudaError_t cudaMallocFromPoolAsync(void** memory, std::size_t bytes, cudaMemPool_t, cudaStream_t stream) {
  return cudaMallocAsync(memory, bytes, stream);
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  const Lock lock(machine_mutex());
  if (memory == nullptr) return emulation::standing();
  if (!emulation::retire(MemoryKind::device, memory)) return note(cudaErrorInvalidValue);
  emulation::submit(stream, [memory] { emulation::release(memory); });
  return emulation::standing();
}

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total) {
  const Lock lock(machine_mutex());
  *total = emulation::device_bytes();
  *free_bytes = *total - emulation::used_bytes();
  return emulation::standing();
}

// ---- pools: there is one, and it holds nothing back

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  static int only = 0;
  *pool = reinterpret_cast<cudaMemPool_t>(&only);
  return emulation::standing();
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps*) {
  return cudaDeviceGetDefaultMemPool(pool, 0);
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t) {
  return emulation::standing();
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, std::size_t) {
  return emulation::standing();
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr attribute, void*) {
  const Lock lock(machine_mutex());
  if (attribute == cudaMemPoolAttrUsedMemHigh || attribute == cudaMemPoolAttrReservedMemHigh)
    emulation::highest_used_bytes() = emulation::used_bytes();
  return emulation::standing();
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr attribute, void* value) {
  const Lock lock(machine_mutex());
  std::uint64_t bytes = 0;
  switch (attribute) {
    case cudaMemPoolAttrUsedMemCurrent:
    case cudaMemPoolAttrReservedMemCurrent:
      bytes = emulation::used_bytes();
      break;
    case cudaMemPoolAttrUsedMemHigh:
    case cudaMemPoolAttrReservedMemHigh:
      bytes = emulation::highest_used_bytes();
      break;
    default:
      return note(cudaErrorInvalidValue);
  }
  std::memcpy(value, &bytes, sizeof bytes);
  return emulation::standing();
}

// ---- copies

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return run_copy({to, bytes, from, bytes, bytes, 1, kind}, nullptr, true);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return run_copy({to, bytes, from, bytes, bytes, 1, kind}, stream, false);
}
cudaError_t cudaMemcpy2D(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                         std::size_t width, std::size_t height, cudaMemcpyKind kind) {
  return run_copy({to, to_pitch, from, from_pitch, width, height, kind}, nullptr, true);
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  return run_copy({to, to_pitch, from, from_pitch, width, height, kind}, stream, false);
}
cudaError_t cudaMemset(void* memory, int value, std::size_t bytes) {
  return run_set(memory, value, bytes, nullptr);
}
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
  return run_set(memory, value, bytes, stream);
}
