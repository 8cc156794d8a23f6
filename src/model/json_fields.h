#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace gptq {

/// Typed access to one object of a JSON file, whose keys keep their order. A key that is absent or null
/// counts as not given. Every complaint is an InputError with the file, the key and what was expected.
class JsonFields {
 public:
  /// file: for messages. path: of this object inside the file ("rope_scaling."), "" for the top.
  JsonFields(const nlohmann::ordered_json& object, std::string file, std::string path = "");

  bool has(const std::string& key) const;
  /// The key is there, and null: which families mean by that differs from leaving it out.
  bool is_null(const std::string& key) const;
  JsonFields child(const std::string& key) const;  ///< an empty object if not given
  /// Another object of the same file; `path` leads to it from this one ("dynamic['.*']."). It must outlive
  /// the result.
  JsonFields part(const nlohmann::ordered_json& object, const std::string& path) const;
  const nlohmann::ordered_json& raw(const std::string& key) const;

  std::int64_t positive(const std::string& key) const;                          ///< required, >= 1
  std::int64_t positive(const std::string& key, std::int64_t otherwise) const;  ///< >= 1
  std::int64_t integer(const std::string& key, std::int64_t otherwise) const;
  float number(const std::string& key, float otherwise) const;           ///< finite
  float positive_number(const std::string& key, float otherwise) const;  ///< finite, > 0
  bool boolean(const std::string& key, bool otherwise) const;
  std::string text(const std::string& key, const std::string& otherwise) const;

  [[noreturn]] void reject(const std::string& key, const std::string& why) const;

 private:
  const nlohmann::ordered_json& object_;
  std::string file_;
  std::string path_;
};

}  // namespace gptq
