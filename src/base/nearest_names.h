#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace gptq {

/// Up to `count` of the candidates that look most like `wanted` (fewest single-character edits), nearest
/// first. Candidates that share less than half of their characters are left out.
std::vector<std::string> nearest_names(std::string_view wanted, const std::vector<std::string>& candidates,
                                       std::size_t count);

}  // namespace gptq
