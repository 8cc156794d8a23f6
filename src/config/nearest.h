#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace gptq {

/// Typing mistakes between two words: letters inserted, left out, replaced, or swapped with their neighbour.
int edit_distance(std::string_view a, std::string_view b);

/// The candidate closest to `word`, compared without case and with '-' taken for '_'; the first of equals.
/// Empty if even the closest differs in more than about a third of its letters: a wrong guess helps nobody.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

/// "; nearest valid key 'bits'" for what = "valid key", or nothing if no candidate is near.
std::string nearest_hint(std::string_view what, std::string_view word,
                         const std::vector<std::string>& candidates);

/// Lower case, '-' turned into '_': how names are compared.
std::string normalized(std::string_view word);

}  // namespace gptq
