#pragma once

#include <cstdint>
#include <string>

namespace gptq {

/// Why a layer is rounded to nearest instead of solved: texts of LayerStatistics::fallback_reason. The same
/// for all layers of a job, so that the report can count by them; a layer's own tokens stand beside them.
std::string not_positive_definite();
std::string too_few_tokens(std::int64_t min_tokens);

/// Whether a Hessian that saw so many tokens is too thin to be solved with (fallback.min_tokens; 0: never).
bool is_too_thin(std::int64_t tokens, std::int64_t min_tokens);

}  // namespace gptq
