#pragma once

// Private to src/io: the form of what `inspect` prints.
#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace gptq {

/// A title and lines of "  label   value".
class Description {
 public:
  explicit Description(std::string title) : text_(std::move(title) + "\n") {}

  void line(std::string_view label, const std::string& value) {
    text_ += fmt::format("  {:<14}{}\n", label, value);
  }
  void raw(const std::string& line) { text_ += "  " + line + "\n"; }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

/// "135'234'567": digits in threes.
inline std::string grouped(std::uint64_t value) {
  std::string digits = std::to_string(value);
  for (std::ptrdiff_t i = static_cast<std::ptrdiff_t>(digits.size()) - 3; i > 0; i -= 3) {
    digits.insert(static_cast<std::size_t>(i), "'");
  }
  return digits;
}

}  // namespace gptq
