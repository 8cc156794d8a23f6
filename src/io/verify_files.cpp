#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/sha256.h"
#include "io/output_directory.h"
#include "io/verify_parts.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

void check_manifest_entry(const fs::path& path, const Manifest::Entry& entry, VerifyResult& result) {
  std::error_code error;
  const std::uintmax_t bytes = fs::file_size(path, error);
  if (error) {
    result.failures.push_back(fmt::format("{} is missing ({})", path.filename().string(), error.message()));
  } else if (bytes != entry.bytes) {
    result.failures.push_back(
        fmt::format("{} has {} bytes, but the manifest says {}: it was cut off or changed",
                    path.filename().string(), bytes, entry.bytes));
  } else if (sha256_of_file(path) != entry.sha256) {
    result.failures.push_back(fmt::format("{} is damaged or was changed: its SHA-256 is not the manifest's",
                                          path.filename().string()));
  }
}

/// Files whose presence misleads loaders or shows that a job did not end.
void check_strangers(const fs::path& directory, const Manifest& manifest, VerifyResult& result) {
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".partial") || name == kJobMarker) {
      result.failures.push_back(fmt::format("{} shows that a job was interrupted here; run it again", name));
    } else if (name.ends_with(".safetensors") && !manifest.files.contains(name)) {
      result.failures.push_back(
          fmt::format("{} is not in the manifest, but loaders may read it; remove it", name));
    }
  }
}

void check_no_quantization(const fs::path& directory, VerifyResult& result) {
  try {
    if (json::parse(read_text_file(directory / "config.json")).contains("quantization_config")) {
      result.failures.push_back(
          "config.json has a quantization_config, but the manifest says that the weights are dequantized");
    }
  } catch (const std::exception& error) {
    result.failures.push_back(error.what());
  }
}

void check_configs(const fs::path& directory, VerifyResult& result) {
  try {
    const json config = json::parse(read_text_file(directory / "config.json"));
    const json separate = json::parse(read_text_file(directory / "quantize_config.json"));
    if (!config.contains("quantization_config")) return;
    if (config["quantization_config"] != separate) {
      result.failures.push_back("quantize_config.json and config.json's quantization_config differ");
    }
    for (const char* key : {"bits", "group_size", "desc_act", "sym", "quant_method", "checkpoint_format"}) {
      if (!separate.contains(key))
        result.failures.push_back(fmt::format("quantize_config.json lacks '{}'", key));
    }
    const bool known_format = find_checkpoint_format(separate.value("checkpoint_format", "")).has_value();
    const std::string method = separate.value("quant_method", "");
    if ((method != "gptq" && method != "mixed_gptq") || !known_format) {
      result.failures.push_back(
          "quantize_config.json: quant_method must be 'gptq' or 'mixed_gptq', checkpoint_format 'gptq', "
          "'gptq_v2' or 'gptq_p'");
    }
  } catch (const std::exception& error) {
    result.failures.push_back(error.what());
  }
}

/// The index must name every tensor: loaders skip those that it does not.
void check_index(const fs::path& directory, VerifyResult& result) {
  const fs::path path = directory / "model.safetensors.index.json";
  if (!fs::exists(path)) return;
  try {
    const json index = json::parse(read_text_file(path));
    std::uint64_t total = 0;
    const SafetensorsReader files(directory);
    for (const auto& [name, info] : files.tensors()) {
      total += info.bytes;
      if (!index.at("weight_map").contains(name)) {
        result.failures.push_back(fmt::format("tensor '{}' of {} is not in the index", name, info.file));
      }
    }
    if (index.value("/metadata/total_size"_json_pointer, std::uint64_t{0}) != total) {
      result.failures.push_back(
          fmt::format("the index gives a wrong metadata.total_size; the tensors have {} bytes", total));
    }
  } catch (const json::exception& error) {
    result.failures.push_back(
        fmt::format("{} cannot be understood: {}", path.filename().string(), error.what()));
  } catch (const Error&) {
    // The reader's own complaint is reported once, where the tensors are verified.
  }
}

}  // namespace

bool verify_files(const fs::path& directory, VerifyResult& result) {
  bool dequantized = false;
  try {
    const std::optional<Manifest> manifest = read_manifest(directory);
    if (manifest) {
      dequantized = manifest->output_format == "dequantized";
      for (const auto& [name, entry] : manifest->files) check_manifest_entry(directory / name, entry, result);
      result.files = static_cast<std::int64_t>(manifest->files.size());
      check_strangers(directory, *manifest, result);
    } else {
      result.failures.push_back("there is no manifest.json: this is no finished output of a quantize job");
    }
  } catch (const Error& error) {
    result.failures.push_back(error.what());
  }
  if (dequantized) {
    check_no_quantization(directory, result);
  } else {
    check_configs(directory, result);
  }
  check_index(directory, result);
  return dequantized;
}

}  // namespace gptq
