#include <fmt/ranges.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <map>

#include "base/error.h"
#include "io/calibration.h"
#include "io/checkpoint_directory.h"
#include "io/description.h"
#include "io/output_directory.h"
#include "io/verify.h"
#include "model/model_config.h"
#include "model/safetensors_reader.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, TensorInfo>;

std::uint64_t elements(const TensorInfo& info) {
  std::uint64_t count = 1;
  for (const std::int64_t extent : info.shape) count *= static_cast<std::uint64_t>(extent);
  return count;
}

void describe_types(const Tensors& tensors, Description& out) {
  struct Sum {
    std::uint64_t tensors = 0;
    std::uint64_t bytes = 0;
  };
  std::map<std::string_view, Sum> sums;
  std::uint64_t total = 0;
  for (const auto& [name, info] : tensors) {
    Sum& sum = sums[name_of(info.dtype)];
    sum.tensors += 1;
    sum.bytes += info.bytes;
    total += info.bytes;
  }
  out.line("bytes", fmt::format("{} in {} tensors", grouped(total), tensors.size()));
  for (const auto& [type, sum] : sums) {
    out.line("", fmt::format("{:<8}{:>18} bytes {:>7} tensors", type, grouped(sum.bytes), sum.tensors));
  }
}

/// Weights that the model computes with: a packed module counts as the matrix that it stands for.
std::uint64_t parameters(const Tensors& tensors) {
  std::uint64_t count = 0;
  for (const auto& [name, info] : tensors) {
    const bool packed_part =
        name.ends_with(".qzeros") || name.ends_with(".scales") || name.ends_with(".g_idx");
    if (name.ends_with(".qweight") && info.shape.size() == 2) {
      const auto g_idx = tensors.find(name.substr(0, name.size() - 7) + "g_idx");
      const std::uint64_t in = g_idx == tensors.end() ? 0 : elements(g_idx->second);
      count += in * static_cast<std::uint64_t>(info.shape[1]);
    } else if (!packed_part) {
      count += elements(info);
    }
  }
  return count;
}

std::string form_text(const QuantizedForm& form) {
  return fmt::format("{} bit, {}, {}{}", form.bits,
                     form.group_size < 0 ? "one group a row" : fmt::format("group {}", form.group_size),
                     form.sym ? "symmetric" : "asymmetric", form.desc_act ? ", activation order" : "");
}

void describe_quantization(const ModelConfig& config, const Tensors& tensors, Description& out) {
  const auto& q = config.quantized;
  if (!q.present) return out.line("quantization", "none");
  std::map<std::string, int> modules;  // how each is stored → how many
  for (const auto& [name, info] : tensors) {
    if (name.ends_with(".qweight")) modules[form_text(q.form_of(name.substr(0, name.size() - 8)))] += 1;
  }
  if (modules.size() == 1) {
    return out.line("quantization", fmt::format("GPTQ {}, format {}; {} modules", modules.begin()->first,
                                                name_of(q.format), modules.begin()->second));
  }
  out.line("quantization", fmt::format("GPTQ, format {}, {}", name_of(q.format),
                                       q.mixed ? "mixed_gptq" : "rules for single modules"));
  for (const auto& [form, count] : modules) out.line("", fmt::format("{}: {} modules", form, count));
}

/// "rope llama3", "rope default and linear" where blocks differ, "learned", "alibi".
std::string positions_text(const ModelConfig& config) {
  if (config.positions == Positions::learned) return "learned";
  if (config.positions == Positions::alibi) return "alibi";
  std::string text = "rope " + config.ropes.front().type;
  for (std::size_t i = 1; i < config.ropes.size(); ++i) text += " and " + config.ropes[i].type;
  return text;
}

std::string describe_model(const fs::path& directory) {
  const ModelConfig config = read_model_config(directory);
  const SafetensorsReader files(directory);
  Description out(fmt::format("{}: a model", directory.string()));
  out.line("type", config.model_type);
  out.line("blocks", fmt::format("{}, hidden {}, intermediate {}", config.num_hidden_layers,
                                 config.hidden_size, config.intermediate_size));
  out.line("attention", fmt::format("{} heads of {}, {} key/value heads", config.num_attention_heads,
                                    config.head_dim, config.num_key_value_heads));
  out.line("vocabulary", fmt::format("{}, head {} the embedding", config.vocab_size,
                                     config.tie_word_embeddings ? "tied to" : "apart from"));
  out.line("positions", fmt::format("{}, {}", config.max_position_embeddings, positions_text(config)));
  out.line("parameters", grouped(parameters(files.tensors())));
  describe_types(files.tensors(), out);
  describe_quantization(config, files.tensors(), out);
  if (const auto manifest = read_manifest(directory)) {
    out.line("made by", fmt::format("{}, {} files in the manifest (gptq-hpc verify checks them)",
                                    manifest->created_by, manifest->files.size()));
  }
  return out.text();
}

std::string describe_calibration(const fs::path& path) {
  const CalibrationData data = read_calibration(path.string(), {}, std::numeric_limits<std::int64_t>::max());
  const auto shortest = std::min_element(data.samples.begin(), data.samples.end(),
                                         [](const auto& a, const auto& b) { return a.size() < b.size(); });
  std::int32_t highest = 0;
  for (const auto& sample : data.samples)
    highest = std::max(highest, *std::max_element(sample.begin(), sample.end()));
  Description out(fmt::format("{}: a calibration file", path.string()));
  out.line("samples", fmt::format("{} of {} to {} tokens (rows of {}), {} tokens in all", data.samples.size(),
                                  shortest->size(), data.longest(), data.seqlen,
                                  grouped(static_cast<std::uint64_t>(data.tokens()))));
  if (data.padding > 0) {
    out.line("padding",
             fmt::format("{} positions (attention_mask)", grouped(static_cast<std::uint64_t>(data.padding))));
  }
  out.line("vocabulary", fmt::format("{}, highest id used {}", data.vocab_size, highest));
  out.line("source", data.source);
  out.line("mode", fmt::format("{}, seed {}", data.mode, data.seed));
  out.line("made by", data.created_by);
  out.line("vocabulary", data.vocabulary_sha256.empty() ? "unknown" : "SHA-256 " + data.vocabulary_sha256);
  out.line("content", fmt::format("SHA-256 {} (checked)", data.sha256));
  return out.text();
}

std::string describe_safetensors(const fs::path& path) {
  const Tensors tensors = read_safetensors_header(path);
  Description out(fmt::format("{}: a safetensors file", path.string()));
  describe_types(tensors, out);
  std::size_t width = 0;
  for (const auto& [name, info] : tensors) width = std::max(width, name.size());
  for (const auto& [name, info] : tensors) {
    out.raw(fmt::format("{:<{}}  {:<8} {}", name, width, name_of(info.dtype), info.shape));
  }
  return out.text();
}

bool starts_like_hdf5(const fs::path& path) {
  std::string magic(8, '\0');
  std::ifstream(path, std::ios::binary).read(magic.data(), 8);
  return magic == "\x89HDF\r\n\x1a\n";
}

std::string describe_checkpoint_file(const fs::path& path, const CheckpointFileName& name) {
  if (name.partial) {
    throw InputError("{} was never finished: a job is writing it, or died doing so; inspect its directory",
                     path.string());
  }
  if (name.kind == CheckpointFileName::Kind::rank_file) return describe_rank_file(path);
  CheckpointManifest manifest;  // a view shows what its generation holds
  manifest.generation = name.generation;
  return describe_generation(path.parent_path() / manifest.file_name());
}

/// A model, a checkpoint, or a job's directory: the model as far as there is one, and its checkpoint.
std::string describe_directory(const fs::path& directory) {
  if (CheckpointDirectory(directory).exists()) return describe_checkpoint(directory);
  const fs::path inside = directory / "checkpoint";
  if (!CheckpointDirectory(inside).exists()) return describe_model(directory);
  std::error_code ignored;
  const bool finished = fs::exists(directory / "config.json", ignored);
  return (finished ? describe_model(directory)
                   : fmt::format("{}: a model in the making\n", directory.string())) +
         describe_checkpoint(inside);
}

}  // namespace

std::string inspect_path(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) throw InputError("{} does not exist", path.string());
  if (fs::is_directory(path, ignored)) return describe_directory(path);
  if (path.extension() == ".safetensors") return describe_safetensors(path);
  if (const auto name = parse_checkpoint_name(path.filename().string()))
    return describe_checkpoint_file(path, *name);
  if (starts_like_hdf5(path)) return describe_calibration(path);
  throw InputError(
      "{} is none of what inspect knows: a model directory, a job's directory, a checkpoint or a file of "
      "one, a "
      ".safetensors file, a calibration file (HDF5)",
      path.string());
}

}  // namespace gptq
