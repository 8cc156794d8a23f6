#include "io/vocabulary.h"

#include <fmt/format.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/sha256.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Words = std::set<std::pair<std::int64_t, std::string>>;

/// The vocabulary is an object (token: id) or, for Unigram models, a list of [token, score] in id order.
void add_vocabulary(const json& vocabulary, Words& words) {
  if (vocabulary.is_object()) {
    for (const auto& [token, id] : vocabulary.items()) words.emplace(id.get<std::int64_t>(), token);
  } else {
    std::int64_t id = 0;
    for (const json& entry : vocabulary) words.emplace(id++, entry.at(0).get<std::string>());
  }
}

Words read_words(const fs::path& path) {
  Words words;
  try {
    const json tokenizer = json::parse(read_text_file(path));
    const json& model = tokenizer.at("model");
    if (model.contains("vocab")) add_vocabulary(model.at("vocab"), words);
    if (const auto added = tokenizer.find("added_tokens"); added != tokenizer.end()) {
      for (const json& token : *added) words.emplace(token.at("id").get<std::int64_t>(), token.at("content"));
    }
  } catch (const json::exception& error) {
    throw InputError("{} is not a tokenizer: {}; fetch the model again", path.string(), error.what());
  }
  return words;
}

}  // namespace

std::string vocabulary_sha256(const fs::path& model_directory) {
  const fs::path path = model_directory / "tokenizer.json";
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return "";
  const Words words = read_words(path);
  if (words.empty()) return "";
  Sha256 hash;
  for (const auto& [id, token] : words) {
    const std::string line = fmt::format("{} {}\n", id, token);
    hash.update(line.data(), line.size());
  }
  return hash.hex();
}

}  // namespace gptq
