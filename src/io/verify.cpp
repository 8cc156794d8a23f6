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
      architecture(architecture_in(files, config)),
      dequantized(is_dequantized) {
  for (std::int64_t block = 0; block < config.num_hidden_layers; ++block)
    layouts.push_back(make_layout(architecture, config, block));
}

std::int64_t groups_of(const QuantizedForm& form, std::int64_t in_features) {
  return form.group_size < 0 ? 1 : (in_features + form.group_size - 1) / form.group_size;
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
  } catch (const nlohmann::json::exception& error) {
    result.failures.push_back(fmt::format("config.json cannot be understood: {}", error.what()));
  }
  shorten(result.failures);
  shorten(result.notes);
  return result;
}

}  // namespace gptq
