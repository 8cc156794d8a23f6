#include "io/checkpoint_manifest.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "base/sha256.h"

namespace gptq {
namespace {

using nlohmann::ordered_json;

constexpr std::int64_t kVersion = 1;
constexpr const char* kFormat = "gptq-hpc-checkpoint";
// The last lines of the file; between them stand 64 digits. The hash covers every byte before.
constexpr std::string_view kSealHead = ",\n  \"sha256\": \"";
constexpr std::string_view kSealTail = "\"\n}\n";
constexpr std::size_t kSealBytes = kSealHead.size() + 64 + kSealTail.size();

std::string sha256_of(std::string_view text) {
  Sha256 hash;
  hash.update(text.data(), text.size());
  return hash.hex();
}

/// JSON has no NaN and no infinity; a layer's loss may be either.
ordered_json from_double(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

double to_double(const ordered_json& value) {
  if (!value.is_string()) return value.get<double>();
  const auto text = value.get<std::string>();
  if (text == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (text == "inf") return std::numeric_limits<double>::infinity();
  if (text == "-inf") return -std::numeric_limits<double>::infinity();
  throw InputError("'{}' is no number", text);
}

ordered_json from_map(const std::map<std::string, std::string>& map) {
  ordered_json json = ordered_json::object();
  for (const auto& [key, value] : map) json[key] = value;
  return json;
}

ordered_json from_layer(const LayerStatistics& layer) {
  return {{"module", layer.module},
          {"block", layer.block},
          {"bits", layer.bits},
          {"group_size", layer.group_size},
          {"samples", layer.samples},
          {"tokens", layer.tokens},
          {"damp_percent", from_double(layer.damp_percent)},
          {"damping_steps", layer.damping_steps},
          {"fallback", layer.fallback},
          {"fallback_reason", layer.fallback_reason},
          {"loss", from_double(layer.loss)},
          {"squared_weight_error", from_double(layer.squared_weight_error)},
          {"squared_output_error", from_double(layer.squared_output_error)},
          {"relative_weight_error", from_double(layer.relative_weight_error)},
          {"relative_output_error", from_double(layer.relative_output_error)},
          {"variant", layer.variant},
          {"refinement_gain", from_double(layer.refinement_gain)},
          {"raised_rows", layer.raised_rows},
          {"held_out_error", from_double(layer.held_out_error)},
          {"seconds", from_double(layer.seconds)}};
}

LayerStatistics to_layer(const ordered_json& json) {
  LayerStatistics layer;
  layer.module = json.at("module");
  layer.block = json.at("block");
  layer.bits = json.at("bits");
  layer.group_size = json.at("group_size");
  layer.samples = json.at("samples");
  layer.tokens = json.at("tokens");
  layer.damp_percent = to_double(json.at("damp_percent"));
  layer.damping_steps = json.at("damping_steps");
  layer.fallback = json.at("fallback");
  layer.fallback_reason = json.at("fallback_reason");
  layer.loss = to_double(json.at("loss"));
  layer.squared_weight_error = to_double(json.at("squared_weight_error"));
  layer.squared_output_error = to_double(json.at("squared_output_error"));
  layer.relative_weight_error = to_double(json.at("relative_weight_error"));
  layer.relative_output_error = to_double(json.at("relative_output_error"));
  layer.variant = json.at("variant");
  // Checkpoints from before there were these are whole: they must be told by their identity, not as damaged.
  if (json.contains("refinement_gain")) layer.refinement_gain = to_double(json.at("refinement_gain"));
  layer.raised_rows = json.value("raised_rows", std::int64_t{0});
  layer.held_out_error = to_double(json.at("held_out_error"));
  layer.seconds = to_double(json.at("seconds"));
  return layer;
}

ordered_json from_layers(const std::vector<LayerStatistics>& layers) {
  ordered_json json = ordered_json::array();
  for (const LayerStatistics& layer : layers) json.push_back(from_layer(layer));
  return json;
}

std::vector<LayerStatistics> to_layers(const ordered_json& json) {
  std::vector<LayerStatistics> layers;
  for (const auto& layer : json) layers.push_back(to_layer(layer));
  return layers;
}

ordered_json from_file(const CheckpointManifest::File& file) {
  return {{"name", file.name},
          {"bytes", file.bytes},
          {"sha256", file.sha256},
          {"samples", {file.first_sample, file.end_sample}},
          {"chunks", file.chunks_summed}};
}

/// Only names this program gives, of this generation: a manifest must not lead anywhere else.
CheckpointManifest::File to_file(const ordered_json& json, std::int64_t generation) {
  CheckpointManifest::File file;
  file.name = json.at("name");
  const auto name = parse_checkpoint_name(file.name);
  const bool fits = name && name->kind == CheckpointFileName::Kind::rank_file && !name->partial &&
                    name->generation == generation;
  if (!fits) throw InputError("'{}' is no rank file's name of generation {}", file.name, generation);
  file.bytes = json.at("bytes");
  file.sha256 = json.at("sha256");
  file.first_sample = json.at("samples").at(0);
  file.end_sample = json.at("samples").at(1);
  file.chunks_summed = json.at("chunks").get<std::vector<std::int64_t>>();
  return file;
}

ordered_json from_manifest(const CheckpointManifest& manifest) {
  ordered_json json;
  json["format"] = kFormat;
  json["version"] = kVersion;
  json["generation"] = manifest.generation;
  json["created_by"] = manifest.created_by;
  json["written"] = manifest.written;
  json["position"] = {{"block", manifest.block}, {"group", manifest.group}};
  json["progress"] = {{"seconds", from_double(manifest.seconds)}, {"attempts", manifest.attempts}};
  json["identity"] = from_map(manifest.identity);
  json["made_with"] = from_map(manifest.made_with);
  json["files"] = ordered_json::array();
  for (const auto& file : manifest.files) json["files"].push_back(from_file(file));
  json["blocks"] = manifest.block_sha256;
  json["layers"] = from_layers(manifest.layers);
  return json;
}

CheckpointManifest to_manifest(const ordered_json& json) {
  CheckpointManifest manifest;
  manifest.generation = json.at("generation");
  manifest.created_by = json.at("created_by");
  manifest.written = json.at("written");
  manifest.block = json.at("position").at("block");
  manifest.group = json.at("position").at("group");
  manifest.seconds = to_double(json.at("progress").at("seconds"));
  manifest.attempts = json.at("progress").at("attempts");
  manifest.identity = json.at("identity").get<std::map<std::string, std::string>>();
  manifest.made_with = json.at("made_with").get<std::map<std::string, std::string>>();
  for (const auto& file : json.at("files")) manifest.files.push_back(to_file(file, manifest.generation));
  manifest.block_sha256 = json.at("blocks").get<std::vector<std::string>>();
  manifest.layers = to_layers(json.at("layers"));
  return manifest;
}

/// The file's text as bytes and as JSON, once format, version and seal are known to be good.
ordered_json parse_sealed(const std::string& text) {
  const ordered_json json = ordered_json::parse(text);
  if (!json.is_object() || json.value("format", ordered_json()) != kFormat) {
    throw InputError("it is no checkpoint manifest of this program");
  }
  if (json.at("version") != kVersion) {
    throw InputError(
        "it has format version {}, this program reads version {}: resume with the program that wrote it",
        json.at("version").dump(), kVersion);
  }
  const std::string_view all = text;
  const std::string_view body = all.substr(0, all.size() - std::min(all.size(), kSealBytes));
  const std::string seal = fmt::format("{}{}{}", kSealHead, sha256_of(body), kSealTail);
  if (all.substr(body.size()) != seal)
    throw InputError("its hash does not fit: it was altered or is damaged");
  return json;
}

/// The digits after `prefix`, at least `width` of them and no more than needed; moves `text` behind them.
std::optional<std::int64_t> take_number(std::string_view& text, std::string_view prefix, std::size_t width) {
  if (!text.starts_with(prefix)) return std::nullopt;
  const std::string_view rest = text.substr(prefix.size());
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  const auto digits = static_cast<std::size_t>(end - rest.data());
  if (error != std::errc() || value < 0 || fmt::format("{:0{}}", value, width) != rest.substr(0, digits)) {
    return std::nullopt;
  }
  text = rest.substr(digits);
  return value;
}

}  // namespace

std::string CheckpointManifest::file_name() const {
  return fmt::format("gen-{:06}.json", generation);
}

std::string checkpoint_file_name(std::int64_t generation, int rank) {
  return fmt::format("gen-{:06}-rank-{:04}.h5", generation, rank);
}

std::string checkpoint_view_name(std::int64_t generation) {
  return fmt::format("gen-{:06}.h5", generation);
}

std::optional<CheckpointFileName> parse_checkpoint_name(const std::string& name) {
  std::string_view rest = name;
  const auto generation = take_number(rest, "gen-", 6);
  if (!generation) return std::nullopt;
  CheckpointFileName result{CheckpointFileName::Kind::manifest, *generation, rest.ends_with(".partial")};
  if (result.partial) rest.remove_suffix(std::string_view(".partial").size());
  if (rest == ".json") return result;
  result.kind = CheckpointFileName::Kind::view;
  if (rest == ".h5") return result;
  result.kind = CheckpointFileName::Kind::rank_file;
  if (take_number(rest, "-rank-", 4) && rest == ".h5") return result;
  return std::nullopt;
}

std::string to_json(const CheckpointManifest& manifest) {
  std::string text = from_manifest(manifest).dump(2, ' ', false, ordered_json::error_handler_t::replace);
  text.resize(text.size() - 2);  // without "\n}": the seal is the last member
  return fmt::format("{}{}{}{}", text, kSealHead, sha256_of(text), kSealTail);
}

std::string layers_to_json(const std::vector<LayerStatistics>& layers) {
  return from_layers(layers).dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::vector<LayerStatistics> layers_from_json(const std::string& text) {
  return to_layers(ordered_json::parse(text));
}

CheckpointManifest read_checkpoint_manifest(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) throw InputError("{} does not exist", path.string());
  try {
    return to_manifest(parse_sealed(read_text_file(path)));
  } catch (const nlohmann::json::exception& error) {
    throw InputError("{} cannot be understood, it is torn or altered: {}", path.string(), error.what());
  } catch (const IoError& error) {
    throw InputError("{}", error.what());  // a manifest that cannot be read does not count
  } catch (const InputError& error) {
    throw InputError("{} is not used: {}", path.string(), error.what());
  }
}

std::vector<std::string> differing_keys(const std::map<std::string, std::string>& old_keys,
                                        const std::map<std::string, std::string>& new_keys) {
  const auto value = [](const std::map<std::string, std::string>& keys, const std::string& key) {
    const auto found = keys.find(key);
    if (found == keys.end()) return std::string("(none)");
    const std::string text =
        ordered_json(found->second).dump(-1, ' ', false, ordered_json::error_handler_t::replace);
    return ordered_json::parse(text).get<std::string>();
  };
  std::set<std::string> keys;
  for (const auto& [key, ignored] : old_keys) keys.insert(key);
  for (const auto& [key, ignored] : new_keys) keys.insert(key);
  std::vector<std::string> lines;
  for (const std::string& key : keys) {
    const std::string before = value(old_keys, key);
    const std::string after = value(new_keys, key);
    const bool on_both_sides = old_keys.contains(key) && new_keys.contains(key);
    if (before != after || !on_both_sides) lines.push_back(fmt::format("{}: {} → {}", key, before, after));
  }
  return lines;
}

}  // namespace gptq
