#include "config/yaml_document.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

namespace gptq {
namespace {

constexpr std::size_t kLargestFile = 1 << 20;  // a job has a few hundred bytes: more is another file
constexpr int kMostValues = 100'000;
constexpr int kLevels = 4;  // sections, keys, rules of dynamic, their settings

/// How many bytes the UTF-8 letter at `at` has; 0 if it is none (overlong forms and surrogates included).
std::size_t utf8_length(const std::string& text, std::size_t at) {
  const auto byte = [&](std::size_t i) {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u;
  };
  const auto continues = [&](std::size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return continues(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    const bool overlong = lead == 0xE0 && byte(1) < 0xA0;
    const bool surrogate = lead == 0xED && byte(1) >= 0xA0;
    return continues(1) && continues(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    const bool overlong = lead == 0xF0 && byte(1) < 0x90;
    const bool too_large = lead == 0xF4 && byte(1) >= 0x90;
    return continues(1) && continues(2) && continues(3) && !overlong && !too_large ? 4 : 0;
  }
  return 0;
}

std::optional<std::string> read_text_file(const std::string& path, const DocumentKind& kind,
                                          std::vector<Mistake>& mistakes) {
  const auto fail = [&](std::string what) {
    mistakes.push_back({path, "", std::move(what)});
    return std::nullopt;
  };
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) {
    return fail(fmt::format("no such {} file; check the path (relative ones start at the current directory)",
                            kind.name));
  }
  if (std::filesystem::is_directory(status))
    return fail(fmt::format("is a directory; name the {}'s YAML file", kind.name));
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) return fail(fmt::format("cannot be opened: {}; check its permissions", std::strerror(errno)));
  std::string text(kLargestFile + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return fail("reading failed half way; check the file system");
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kLargestFile)
    return fail(fmt::format("is larger than 1 MiB: this is not a {} file", kind.name));
  if (!is_clean_text(text)) return fail(fmt::format("is not UTF-8 text: this is not a {} file", kind.name));
  return text;
}

std::string syntax_mistake(const YAML::Exception& error) {
  const bool too_deep =
      error.msg == YAML::ErrorMsg::BAD_FILE;  // yaml-cpp's words for it; the text itself was read
  return fmt::format("is not valid YAML: {}", too_deep ? "nested too deeply" : error.msg);
}

/// YAML forbids tabs in indentation, and yaml-cpp does not say that this is what is wrong.
std::string tab_hint(const std::string& text, int line) {
  std::istringstream lines(text);
  std::string wrong;
  for (int i = 0; i <= line; ++i) std::getline(lines, wrong);
  const bool tab_first = wrong.substr(0, wrong.find_first_not_of(" \t")).find('\t') != std::string::npos;
  return tab_first ? "; indent with spaces, not tabs" : "";
}

/// Where something stands after the first document. (YAML::LoadAll would say so too, but some texts make
/// yaml-cpp 0.7 find empty documents without end.)
std::optional<YAML::Mark> start_of_second_document(const std::string& text) {
  struct Listener : YAML::EventHandler {
    YAML::Mark start = YAML::Mark::null_mark();
    void OnDocumentStart(const YAML::Mark& mark) override { start = mark; }
    void OnDocumentEnd() override {}
    void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
    void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
    void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
    void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                         YAML::EmitterStyle::value) override {}
    void OnSequenceEnd() override {}
    void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                    YAML::EmitterStyle::value) override {}
    void OnMapEnd() override {}
  };
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  Listener listener;
  if (!parser.HandleNextDocument(listener) || !parser.HandleNextDocument(listener)) return std::nullopt;
  return listener.start;
}

/// Turns yaml-cpp's nodes into RawEntry and RawValue; never deeper than a job goes, so that aliases cannot
/// loop, and never more than a job holds, so that they cannot multiply.
class Converter {
 public:
  Converter(std::string path, std::vector<Mistake>& mistakes) : path_(std::move(path)), mistakes_(mistakes) {}

  std::string place(const YAML::Mark& mark) const {
    return mark.is_null() ? path_ : fmt::format("{}:{}:{}", path_, mark.line + 1, mark.column + 1);
  }

  /// levels: of lists and maps inside each other that are followed.
  RawValue value(const YAML::Node& node, int levels) {
    RawValue result;
    result.place = place(node.Mark());
    if (!count(result.place)) return result;
    const std::string& tag = node.Tag();  // "?": plain, "!": quoted
    if (!tag.empty() && tag != "?" && tag != "!") {
      mistakes_.push_back(
          {result.place, "", fmt::format("the tag '{}' has no meaning in a job; remove it", tag)});
    }
    if (node.IsScalar()) {
      result.kind = RawValue::Kind::scalar;
      result.text = node.Scalar();
      result.quoted = tag == "!";
    } else if (node.IsSequence()) {
      result.kind = RawValue::Kind::list;
      for (std::size_t i = 0; levels > 0 && i < node.size(); ++i)
        result.items.push_back(value(node[i], levels - 1));
    } else if (node.IsMap()) {
      result.kind = RawValue::Kind::map;
      if (levels > 0) result.entries = entries(node, levels - 1);
    }
    return result;
  }

 private:
  std::vector<RawEntry> entries(const YAML::Node& map, int levels) {
    std::vector<RawEntry> result;
    for (const auto& pair : map) {
      const YAML::Node& name = pair.first;
      if (!name.IsScalar()) {
        mistakes_.push_back({place(name.Mark()), "", "a key must be a word"});
        continue;
      }
      RawEntry entry{name.Scalar(), place(name.Mark()), value(pair.second, levels)};
      if (entry.value.kind == RawValue::Kind::none) entry.value.place = entry.place;  // nothing to point at
      result.push_back(std::move(entry));
    }
    return result;
  }

  bool count(const std::string& where) {
    if (++values_ == kMostValues)
      mistakes_.push_back({where, "", fmt::format("has more than {} values: this is no job", kMostValues)});
    return values_ < kMostValues;
  }

  std::string path_;
  std::vector<Mistake>& mistakes_;
  int values_ = 0;
};

/// What an override says stands on no line of its own.
void set_places(RawValue& value, const std::string& place) {
  value.place = place;
  for (RawValue& item : value.items) set_places(item, place);
  for (RawEntry& entry : value.entries) {
    entry.place = place;
    set_places(entry.value, place);
  }
}

}  // namespace

bool is_clean_text(const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_length(text, at);
    const auto letter = static_cast<unsigned char>(text[at]);
    const bool control =
        (letter < 0x20 && letter != '\t' && letter != '\n' && letter != '\r') || letter == 0x7f;
    if (length == 0 || control) return false;
    at += length;
  }
  return true;
}

std::vector<RawEntry> read_document(const std::string& path, std::vector<Mistake>& mistakes,
                                    const DocumentKind& kind) {
  const std::optional<std::string> text = read_text_file(path, kind, mistakes);
  if (!text) return {};
  Converter converter(path, mistakes);
  try {
    const YAML::Node document = YAML::Load(*text);
    if (const std::optional<YAML::Mark> second = start_of_second_document(*text)) {
      const char* what =
          document.IsNull() ? "from here on, this is no YAML" : "a second document starts here";
      mistakes.push_back(
          {converter.place(*second), "", std::string(what) + "; a file holds one " + kind.name});
    } else if (document.IsNull()) {
      mistakes.push_back({path, "", "is empty; start from " + kind.example});
    }
    if (document.IsNull()) return {};
    if (!document.IsMap()) {
      mistakes.push_back(
          {converter.place(document.Mark()), "",
           fmt::format("a {} is a map of sections{}; start from {}", kind.name,
                       kind.name == "job" ? " ('model:', 'quantization:', ...)" : "", kind.example)});
      return {};
    }
    return converter.value(document, kLevels).entries;
  } catch (const YAML::Exception& error) {
    mistakes.push_back(
        {converter.place(error.mark), "", syntax_mistake(error) + tab_hint(*text, error.mark.line)});
    return {};
  }
}

RawValue parse_flow(const std::string& text, const std::string& place, std::vector<Mistake>& mistakes) {
  RawValue result;
  try {
    Converter converter(place, mistakes);
    result = converter.value(YAML::Load(text), kLevels - 2);
    if (start_of_second_document(text)) mistakes.push_back({place, "", "holds more than one value"});
  } catch (const YAML::Exception& error) {
    mistakes.push_back({place, "", syntax_mistake(error)});
  }
  set_places(result, place);
  return result;
}

}  // namespace gptq
