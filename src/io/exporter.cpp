#include "io/exporter.h"

#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "base/sha256.h"
#include "config/version.h"
#include "io/output_directory.h"
#include "io/output_layout.h"
#include "io/quantization_config.h"
#include "io/safetensors_writer.h"
#include "quant/packing.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kSmallFileBytes = 4 << 20;  // configs, manifest, reports

/// Companion files of the source model, by name.
std::vector<fs::path> companion_files(const fs::path& source) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(source)) {
    if (entry.is_regular_file() && is_companion_file(entry.path().filename().string()))
      files.push_back(entry.path());
  }
  return files;
}

std::uint64_t room_needed(const OutputLayout& layout, const std::vector<fs::path>& companions) {
  std::uint64_t bytes = kSmallFileBytes;
  for (const auto& file : layout.files) bytes += safetensors_file_bytes(file.tensors);
  for (const fs::path& file : companions) bytes += fs::file_size(file);
  return bytes;
}

/// A bias in the type that loaders of GPTQ models expect.
HostTensor half_bias(const HostTensor& bias, const std::string& name) {
  HostTensor half = convert(bias, DType::f16);
  const auto* values = reinterpret_cast<const f16*>(half.storage.data());
  for (std::int64_t i = 0; i < half.elements(); ++i) {
    if (!std::isfinite(to_float(values[i]))) {
      throw InputError(
          "{}: element {} does not fit into fp16, the type of biases in this format; exclude the module",
          name, i);
    }
  }
  return half;
}

}  // namespace

struct Exporter::State {
  JobConfig job;
  const ModelWeights& model;
  const Recipe& recipe;
  fs::path directory;
  OutputLayout layout;
  std::vector<fs::path> companions;
  std::vector<std::unique_ptr<SafetensorsWriter>> writers;  ///< one a file; empty once the file is finished
  Manifest manifest;

  SafetensorsWriter& writer_of(const std::string& tensor) {
    const auto found = layout.file_of.find(tensor);
    if (found == layout.file_of.end() || writers[found->second] == nullptr) {
      throw Error(ExitCode::internal, fmt::format("tensor '{}' has no place left in the output", tensor));
    }
    return *writers[found->second];
  }

  void write_layer(const QuantizedLayer& layer, const BlockWeights& weights, const std::string& prefix) {
    const PackedLayer packed = pack(layer, job.output.checkpoint_format == "gptq_v2");
    const std::string& module = layer.module;
    writer_of(module + ".qweight").write(module + ".qweight", packed.qweight);
    writer_of(module + ".qzeros").write(module + ".qzeros", packed.qzeros);
    writer_of(module + ".scales").write(module + ".scales", packed.scales);
    writer_of(module + ".g_idx").write(module + ".g_idx", packed.g_idx);
    const std::string bias = module + ".bias";
    if (layout.file_of.contains(bias)) {
      writer_of(bias).write(bias, half_bias(weights.at(bias.substr(prefix.size())), bias));
    }
  }

  /// What the engine holds is what is written; tensors that it does not know come from the source's files.
  void write_kept(const std::string& name, const BlockWeights& weights, const std::string& prefix) {
    const auto found = weights.tensors.find(name.substr(prefix.size()));
    if (found == weights.tensors.end()) return writer_of(name).copy(name, model.files());
    writer_of(name).write(name, found->second);
  }

  /// Files whose tensors have all arrived get their final names.
  void finish_files() {
    for (std::size_t f = 0; f < writers.size(); ++f) {
      if (writers[f] == nullptr || !writers[f]->complete()) continue;
      manifest.files[layout.files[f].name] = {writers[f]->bytes(), writers[f]->finish()};
      writers[f].reset();
    }
  }

  void write_text(const std::string& name, const std::string& text) {
    write_file(directory / name, text);
    Sha256 hash;
    hash.update(text.data(), text.size());
    manifest.files[name] = {text.size(), hash.hex()};
  }
};

Exporter::Exporter(const JobConfig& job, const ModelWeights& model, const Recipe& recipe,
                   const std::string& fingerprint)
    : state_(new State{job, model, recipe, job.output.path, {}, {}, {}, {}}) {
  State& s = *state_;
  s.layout = lay_out_output(model, recipe, static_cast<std::uint64_t>(job.output.max_shard_bytes));
  s.companions = companion_files(model.files().directory());
  s.manifest.fingerprint = fingerprint;
  s.manifest.created_by = "gptq-hpc " + version();
  claim_output_directory({s.directory, model.files().directory(), fingerprint, job.output.overwrite,
                          room_needed(s.layout, s.companions)});
  for (const auto& file : s.layout.files) {
    s.writers.push_back(std::make_unique<SafetensorsWriter>(s.directory / file.name, file.tensors));
  }
}

Exporter::~Exporter() = default;

void Exporter::write_block(std::int64_t block, const BlockWeights& weights,
                           const std::vector<QuantizedLayer>& layers) {
  State& s = *state_;
  GPTQ_EXPECT(block >= 0 && block < static_cast<std::int64_t>(s.layout.copied.size()) &&
              weights.block == block);
  const std::string prefix = block_prefix(s.model.architecture(), block);
  for (const QuantizedLayer& layer : layers) s.write_layer(layer, weights, prefix);
  for (const std::string& name : s.layout.copied[static_cast<std::size_t>(block)])
    s.write_kept(name, weights, prefix);
  s.finish_files();
}

void Exporter::finish() {
  State& s = *state_;
  for (const std::string& name : s.layout.outside_blocks) s.writer_of(name).copy(name, s.model.files());
  s.finish_files();
  for (const auto& writer : s.writers) {
    if (writer != nullptr) writer->finish();  // says which tensor is missing
  }
  for (const fs::path& file : s.companions) s.write_text(file.filename().string(), read_text_file(file));
  const std::string quantize_config = quantize_config_json(s.job, s.model, s.recipe);
  s.write_text("quantize_config.json", quantize_config);
  if (s.layout.files.size() > 1) s.write_text("model.safetensors.index.json", s.layout.index_json());
  const std::string source_config = read_text_file(s.model.files().directory() / "config.json");
  s.write_text("config.json", output_config_json(source_config, quantize_config));
  write_manifest(s.manifest, s.directory);
  release_output_directory(s.directory);
}

const fs::path& Exporter::directory() const {
  return state_->directory;
}

bool is_finished_output(const fs::path& directory, const std::string& fingerprint) {
  std::optional<Manifest> manifest;
  try {
    manifest = read_manifest(directory);
  } catch (const Error&) {
    return false;
  }
  if (!manifest || manifest->fingerprint != fingerprint) return false;
  for (const auto& [name, entry] : manifest->files) {
    std::error_code error;
    if (fs::file_size(directory / name, error) != entry.bytes || error) return false;
  }
  return true;
}

}  // namespace gptq
