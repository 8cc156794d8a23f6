#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace gptq {

/// Values a key may take. Text: one of `words`, if any. Numbers: one of `numbers`, or within the range, if
/// there is one.
struct Limits {
  bool automatic = false;  ///< "auto" is allowed in the place of a number, and stored as 0
  std::vector<std::string> words;
  std::vector<std::int64_t> numbers;
  bool has_range = false;
  bool low_open = false;   ///< `low` itself is not allowed
  bool high_open = false;  ///< `high` itself is not allowed
  double low = 0;
  double high = std::numeric_limits<double>::infinity();
  std::string reason;  ///< why no other value is allowed, where that is no matter of course

  bool allow(double number) const;
  bool allow(const std::string& word) const;
  /// "2, 3, 4 or 8", "-1 or at least 1", "in (0, 1)"; empty where everything is allowed.
  std::string describe() const;
};

// How the table of keys writes them.
Limits any();
Limits words(std::vector<std::string> allowed);
Limits at_least(double low);
Limits above(double low);
Limits this_or_at_least(std::int64_t special, double low);
Limits within(char left, double low, double high, char right);  ///< within('(', 0, 1, ']') is 0 < x <= 1
Limits this_or(std::int64_t special, Limits limits);
Limits auto_or(Limits limits);
Limits because(Limits limits, std::string reason);

}  // namespace gptq
