#include "model/json_fields.h"

#include <cmath>
#include <utility>

#include "base/error.h"

namespace gptq {
namespace {

const nlohmann::ordered_json& empty_object() {
  static const nlohmann::ordered_json empty = nlohmann::ordered_json::object();
  return empty;
}

}  // namespace

JsonFields::JsonFields(const nlohmann::ordered_json& object, std::string file, std::string path)
    : object_(object), file_(std::move(file)), path_(std::move(path)) {
  if (!object_.is_object()) {
    throw InputError("{}: {} must be a JSON object", file_, path_.empty() ? "the whole" : path_);
  }
}

bool JsonFields::has(const std::string& key) const {
  return object_.contains(key) && !object_[key].is_null();
}

bool JsonFields::is_null(const std::string& key) const {
  return object_.contains(key) && object_[key].is_null();
}

JsonFields JsonFields::child(const std::string& key) const {
  return JsonFields(has(key) ? object_[key] : empty_object(), file_, path_ + key + ".");
}

JsonFields JsonFields::part(const nlohmann::ordered_json& object, const std::string& path) const {
  return JsonFields(object, file_, path_ + path);
}

const nlohmann::ordered_json& JsonFields::raw(const std::string& key) const {
  if (!has(key)) reject(key, "is required");
  return object_[key];
}

std::int64_t JsonFields::positive(const std::string& key) const {
  if (!has(key)) reject(key, "is required: an integer >= 1");
  return positive(key, 0);
}

std::int64_t JsonFields::positive(const std::string& key, std::int64_t otherwise) const {
  if (!has(key)) return otherwise;
  const std::int64_t value = integer(key, otherwise);
  if (value < 1) reject(key, "must be an integer >= 1");
  return value;
}

std::int64_t JsonFields::integer(const std::string& key, std::int64_t otherwise) const {
  if (!has(key)) return otherwise;
  if (!object_[key].is_number_integer()) reject(key, "must be an integer");
  return object_[key].get<std::int64_t>();
}

float JsonFields::number(const std::string& key, float otherwise) const {
  if (!has(key)) return otherwise;
  if (!object_[key].is_number()) reject(key, "must be a number");
  const float value = object_[key].get<float>();
  if (!std::isfinite(value)) reject(key, "must be a finite number");
  return value;
}

float JsonFields::positive_number(const std::string& key, float otherwise) const {
  const float value = number(key, otherwise);
  if (has(key) && value <= 0) reject(key, "must be > 0");
  return value;
}

bool JsonFields::boolean(const std::string& key, bool otherwise) const {
  if (!has(key)) return otherwise;
  if (!object_[key].is_boolean()) reject(key, "must be true or false");
  return object_[key].get<bool>();
}

std::string JsonFields::text(const std::string& key, const std::string& otherwise) const {
  if (!has(key)) return otherwise;
  if (!object_[key].is_string()) reject(key, "must be a text");
  return object_[key].get<std::string>();
}

void JsonFields::reject(const std::string& key, const std::string& why) const {
  const std::string found = has(key) ? fmt::format(" (found {})", object_[key].dump()) : std::string();
  throw InputError("{}: {}{} {}{}", file_, path_, key, why, found);
}

}  // namespace gptq
