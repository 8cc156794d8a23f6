#pragma once

#include <string>
#include <vector>

#include "config/key_value.h"

namespace gptq {

/// What a file is expected to be, for messages.
struct DocumentKind {
  std::string name = "job";
  std::string example = "configs/quickstart.yaml";
};

/// The file's sections, as written; nothing is known of keys here. What cannot be read at all (no such file,
/// no text, bad syntax) is added to `mistakes` and the rest is empty.
std::vector<RawEntry> read_document(const std::string& path, std::vector<Mistake>& mistakes,
                                    const DocumentKind& kind = {});

/// The value of an override that is written as YAML: a list or a map in flow style, a text in quotes.
RawValue parse_flow(const std::string& text, const std::string& place, std::vector<Mistake>& mistakes);

/// The text is UTF-8 without control characters other than tabs and line ends.
bool is_clean_text(const std::string& text);

}  // namespace gptq
