#include "config/nearest.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>

namespace gptq {
namespace {

constexpr std::size_t kLongestWord = 64;  // names are short; the table below stays small whatever was typed

}  // namespace

int edit_distance(std::string_view a, std::string_view b) {
  const std::size_t width = b.size() + 1;
  std::vector<int> before_last(width), last(width), row(width);
  for (std::size_t j = 0; j < width; ++j) last[j] = static_cast<int>(j);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = static_cast<int>(i);
    for (std::size_t j = 1; j < width; ++j) {
      const int replaced = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({replaced, last[j] + 1, row[j - 1] + 1});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before_last[j - 2] + 1);
    }
    std::swap(before_last, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

std::string normalized(std::string_view word) {
  std::string result(word);
  for (char& letter : result) {
    if (letter == '-') letter = '_';
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  }
  return result;
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  if (word.empty() || word.size() > kLongestWord) return {};
  const std::string wanted = normalized(word);
  std::string best;
  int best_distance = static_cast<int>(kLongestWord);
  for (const std::string& candidate : candidates) {
    const int distance = edit_distance(wanted, normalized(candidate));
    const int letters = static_cast<int>(std::max(wanted.size(), candidate.size()));
    if (distance * 3 <= letters + 1 && distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

std::string nearest_hint(std::string_view what, std::string_view word,
                         const std::vector<std::string>& candidates) {
  const std::string guess = nearest(word, candidates);
  return guess.empty() ? "" : fmt::format("; nearest {} '{}'", what, guess);
}

}  // namespace gptq
