#pragma once

#include <cstddef>
#include <cstdint>

namespace gptq {

/// Working memory of the calling thread, one buffer a purpose, grown to the largest request and kept: hot
/// loops allocate nothing. Contents are undefined; a purpose's buffer is valid until the next request for
/// that purpose.
enum class Scratch {
  tile_in,
  tile_out,
  scores,
  weights,
  partial,
  running,
  head_rows,
  shared_keys,
  shared_values,
  count
};

void* scratch_bytes(Scratch purpose, std::size_t bytes);

template <typename T>
T* scratch(Scratch purpose, std::int64_t count) {
  return static_cast<T*>(scratch_bytes(purpose, static_cast<std::size_t>(count) * sizeof(T)));
}

}  // namespace gptq
