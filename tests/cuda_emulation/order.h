#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace emulation {

/// A choice made by an environment variable: NAME or random:SEED. Aborts with a message on anything else.
struct Choice {
  std::string name;  ///< one of those allowed, or "random"
  std::uint64_t seed = 0;
};
Choice read_choice(const char* variable, const std::vector<std::string>& allowed);

/// The order in which independent things are done (GPTQ_EMULATION_ORDER).
class Order {
 public:
  explicit Order(Choice choice) : choice_(std::move(choice)), random_(choice_.seed) {}
  /// 0..count-1 in this order; another one at each call where it is random.
  const std::vector<std::size_t>& of(std::size_t count);

 private:
  Choice choice_;
  std::mt19937_64 random_;
  std::vector<std::size_t> order_;
};

}  // namespace emulation
