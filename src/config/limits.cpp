#include "config/limits.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace gptq {
namespace {

std::string joined(const std::vector<std::string>& items) {
  std::string text;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += i + 1 == items.size() ? " or " : ", ";
    text += items[i];
  }
  return text;
}

}  // namespace

bool Limits::allow(double number) const {
  const auto same = [&](std::int64_t allowed) { return static_cast<double>(allowed) == number; };
  if (std::any_of(numbers.begin(), numbers.end(), same)) return true;
  if (!has_range) return numbers.empty();
  return (low_open ? number > low : number >= low) && (high_open ? number < high : number <= high);
}

bool Limits::allow(const std::string& word) const {
  return words.empty() || std::find(words.begin(), words.end(), word) != words.end();
}

std::string Limits::describe() const {
  std::vector<std::string> parts = words;
  if (automatic) parts.push_back("auto");
  for (std::int64_t number : numbers) parts.push_back(std::to_string(number));
  if (has_range && high == std::numeric_limits<double>::infinity()) {
    parts.push_back(fmt::format("{} {}", low_open ? "above" : "at least", low));
  } else if (has_range) {
    parts.push_back(fmt::format("in {}{}, {}{}", low_open ? '(' : '[', low, high, high_open ? ')' : ']'));
  }
  return joined(parts);
}

Limits any() {
  return {};
}

Limits words(std::vector<std::string> allowed) {
  Limits limits;
  limits.words = std::move(allowed);
  return limits;
}

Limits at_least(double low) {
  Limits limits;
  limits.has_range = true;
  limits.low = low;
  return limits;
}

Limits above(double low) {
  Limits limits = at_least(low);
  limits.low_open = true;
  return limits;
}

Limits this_or_at_least(std::int64_t special, double low) {
  return this_or(special, at_least(low));
}

Limits within(char left, double low, double high, char right) {
  Limits limits = at_least(low);
  limits.high = high;
  limits.low_open = left == '(';
  limits.high_open = right == ')';
  return limits;
}

Limits this_or(std::int64_t special, Limits limits) {
  limits.numbers.push_back(special);
  return limits;
}

Limits auto_or(Limits limits) {
  limits.automatic = true;
  return limits;
}

Limits because(Limits limits, std::string reason) {
  limits.reason = std::move(reason);
  return limits;
}

}  // namespace gptq
