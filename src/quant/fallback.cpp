#include "quant/fallback.h"

#include <fmt/format.h>

namespace gptq {

std::string not_positive_definite() {
  return "the Hessian is not positive definite even with full damping";
}

std::string too_few_tokens(std::int64_t min_tokens) {
  return fmt::format("fewer than {} tokens reached the layer (fallback.min_tokens)", min_tokens);
}

bool is_too_thin(std::int64_t tokens, std::int64_t min_tokens) {
  return tokens < min_tokens;
}

}  // namespace gptq
