#include "tests/cuda_emulation/order.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>

namespace emulation {

Choice read_choice(const char* variable, const std::vector<std::string>& allowed) {
  const char* value = std::getenv(variable);
  const std::string text = value == nullptr || *value == '\0' ? allowed.front() : value;
  if (std::find(allowed.begin(), allowed.end(), text) != allowed.end()) return {text, 0};
  const std::string random = "random:";
  if (text.starts_with(random)) {
    char* end = nullptr;
    const std::uint64_t seed = std::strtoull(text.c_str() + random.size(), &end, 10);
    if (*end == '\0') return {"random", seed};
  }
  std::fprintf(stderr, "emulation: %s=%s is not understood\n", variable, text.c_str());
  std::abort();
}

const std::vector<std::size_t>& Order::of(std::size_t count) {
  const bool random = choice_.name == "random";
  if (order_.size() == count && !random) return order_;
  order_.resize(count);
  std::iota(order_.begin(), order_.end(), std::size_t{0});
  if (choice_.name == "reverse") std::reverse(order_.begin(), order_.end());
  if (random) std::shuffle(order_.begin(), order_.end(), random_);
  return order_;
}

}  // namespace emulation
