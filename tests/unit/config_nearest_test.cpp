// Spelling distances against the plain recursive definition.
#include "config/nearest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace gptq {
namespace {

/// The definition, without a table: optimal string alignment distance.
int naive_distance(std::string_view a, std::string_view b) {
  if (a.empty() || b.empty()) return static_cast<int>(a.size() + b.size());
  const auto shorter = [](std::string_view text, std::size_t by) { return text.substr(0, text.size() - by); };
  int best = std::min({naive_distance(shorter(a, 1), b) + 1, naive_distance(a, shorter(b, 1)) + 1,
                       naive_distance(shorter(a, 1), shorter(b, 1)) + (a.back() == b.back() ? 0 : 1)});
  const bool swapped =
      a.size() > 1 && b.size() > 1 && a.back() == b[b.size() - 2] && a[a.size() - 2] == b.back();
  if (swapped) best = std::min(best, naive_distance(shorter(a, 2), shorter(b, 2)) + 1);
  return best;
}

TEST(Nearest, DistanceAgreesWithItsDefinition) {
  std::mt19937 random(7);
  const auto word = [&] {
    std::string text(random() % 6, ' ');
    for (char& letter : text) letter = static_cast<char>('a' + random() % 3);
    return text;
  };
  for (int i = 0; i < 500; ++i) {
    const std::string a = word(), b = word();
    ASSERT_EQ(edit_distance(a, b), naive_distance(a, b)) << a << " " << b;
  }
}

TEST(Nearest, GuessesOnlyWhenNear) {
  const std::vector<std::string> keys = {"bits", "group_size", "damp_percent", "sym"};
  EXPECT_EQ(nearest("group-sise", keys), "group_size");
  EXPECT_EQ(nearest("BITS", keys), "bits");
  EXPECT_EQ(nearest("bist", keys), "bits");
  EXPECT_EQ(nearest("temperature", keys), "");
  EXPECT_EQ(nearest("", keys), "");
  EXPECT_EQ(nearest(std::string(100'000, 'a'), keys), "");
  EXPECT_EQ(nearest_hint("key", "syn", keys), "; nearest key 'sym'");
  EXPECT_EQ(nearest_hint("key", "temperature", keys), "");
}

}  // namespace
}  // namespace gptq
