#include "io/verify.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "io/verify_parts.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxMessages = 100;

std::vector<std::regex> read_skip_rules(const fs::path& directory) {
  const auto config = nlohmann::json::parse(read_text_file(directory / "config.json"));
  std::vector<std::regex> rules;
  if (!config.contains("quantization_config")) return rules;
  const auto& quantization = config["quantization_config"];
  if (!quantization.contains("dynamic") || !quantization["dynamic"].is_object()) return rules;
  for (const auto& [rule, options] : quantization["dynamic"].items()) {
    if (rule.starts_with("-:")) rules.emplace_back(rule.substr(2));
  }
  return rules;
}

void shorten(std::vector<std::string>& messages) {
  if (messages.size() <= kMaxMessages) return;
  const std::size_t more = messages.size() - kMaxMessages;
  messages.resize(kMaxMessages);
  messages.push_back(fmt::format("and {} more", more));
}

}  // namespace

OutputModel::OutputModel(const fs::path& directory, bool is_dequantized)
    : files(directory),
      config(read_model_config(directory)),
      architecture(find_architecture(config.model_type)),
      groups(stage_groups(architecture, config)),
      skip_rules(read_skip_rules(directory)),
      dequantized(is_dequantized) {}

bool OutputModel::is_skipped(const std::string& module) const {
  return std::any_of(skip_rules.begin(), skip_rules.end(), [&](const std::regex& rule) {
    return std::regex_search(module, rule, std::regex_constants::match_continuous);
  });
}

std::int64_t OutputModel::groups_of(std::int64_t in_features) const {
  const std::int64_t size = config.quantized.group_size;
  return size < 0 ? 1 : (in_features + size - 1) / size;
}

VerifyResult verify_output(const fs::path& directory) {
  if (!fs::is_directory(directory)) {
    throw InputError("{} is not a directory; verify takes the output directory of a quantize job",
                     directory.string());
  }
  VerifyResult result;
  const bool dequantized = verify_files(directory, result);
  try {
    const OutputModel model(directory, dequantized);
    if (!model.config.quantized.present && !dequantized) {
      result.failures.push_back(
          "config.json has no quantization_config: loaders take the model for an unquantized one");
    } else {
      verify_tensors(model, result);
      note_loader_limits(model, result);
    }
  } catch (const Error& error) {
    result.failures.push_back(error.what());
  } catch (const std::regex_error& error) {
    result.failures.push_back(
        fmt::format("config.json: a rule of 'dynamic' is no regular expression: {}", error.what()));
  } catch (const nlohmann::json::exception& error) {
    result.failures.push_back(fmt::format("config.json cannot be understood: {}", error.what()));
  }
  shorten(result.failures);
  shorten(result.notes);
  return result;
}

}  // namespace gptq
