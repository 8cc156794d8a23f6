#pragma once

#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "comm/communicator.h"

namespace gptq {

/// All ranks' values, in rank order, on every rank. Ranks hold samples in ascending order, so what there is
/// one of for each sample comes in the order of the samples, on any number of ranks. Collective.
template <typename T>
std::vector<T> gather_in_order(const std::vector<T>& mine, Communicator& comm) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::vector<T> all;
  for (const auto& bytes : comm.all_gather(std::as_bytes(std::span(mine)))) {
    const std::size_t before = all.size();
    all.resize(before + bytes.size() / sizeof(T));
    if (!bytes.empty()) std::memcpy(all.data() + before, bytes.data(), bytes.size());
  }
  return all;
}

}  // namespace gptq
