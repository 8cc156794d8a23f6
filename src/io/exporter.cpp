#include "io/exporter.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/sha256.h"
#include "config/version.h"
#include "io/layer_tensors.h"
#include "io/output_directory.h"
#include "io/output_layout.h"
#include "io/quantization_config.h"
#include "io/safetensors_writer.h"
#include "model/source_tensors.h"

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

}  // namespace

struct Exporter::State {
  JobConfig job;
  const ModelWeights& model;
  const Recipe& recipe;
  fs::path directory;
  OutputLayout layout;
  std::vector<fs::path> companions;
  std::vector<BlockPlace> places;                           ///< of the blocks
  std::vector<std::unique_ptr<SafetensorsWriter>> writers;  ///< one a file; empty once the file is finished
  std::vector<std::string> block_sha256;                    ///< of every block; empty: not written yet
  Manifest manifest;
  bool joined = false;  ///< another rank owns the output; writers are made when they are needed
  bool directory_synced = false;
  std::atomic<bool> keep_partial = false;

  State(const JobConfig& the_job, const ModelWeights& the_model, const Recipe& the_recipe)
      : job(the_job),
        model(the_model),
        recipe(the_recipe),
        directory(job.output.path),
        layout(lay_out_output(model, recipe, job.output)),
        companions(companion_files(model.files().directory())),
        places(places_of_blocks(model, layout)),
        block_sha256(places.size()) {}

  /// Per file: the tensors of finished blocks in it.
  std::vector<std::vector<std::string>> finished_tensors(std::size_t blocks) const {
    GPTQ_EXPECT(blocks <= places.size());
    std::vector<std::vector<std::string>> names(layout.files.size());
    for (std::size_t b = 0; b < blocks; ++b) {
      for (const auto& [name, info] : places[b].tensors) names[places[b].file].push_back(name);
    }
    return names;
  }

  /// Under both names that a file may have now.
  std::set<std::string> files_to_keep(const std::vector<std::vector<std::string>>& finished) const {
    std::set<std::string> names;
    for (std::size_t f = 0; f < layout.files.size(); ++f) {
      if (finished[f].empty()) continue;
      names.insert(layout.files[f].name);
      names.insert(partial_path(layout.files[f].name).string());
    }
    return names;
  }

  /// What the writers will refuse, found before anything is changed.
  void require_frames(const std::vector<std::vector<std::string>>& finished) const {
    for (std::size_t f = 0; f < layout.files.size(); ++f) {
      if (!finished[f].empty()) {
        require_frame(directory / layout.files[f].name, lay_out_safetensors(layout.files[f].tensors));
      }
    }
  }

  void open_files(const std::vector<std::vector<std::string>>& finished) {
    for (std::size_t f = 0; f < layout.files.size(); ++f) {
      const fs::path path = directory / layout.files[f].name;
      const auto& tensors = layout.files[f].tensors;
      writers.push_back(finished[f].empty()
                            ? std::make_unique<SafetensorsWriter>(path, tensors)
                            : std::make_unique<SafetensorsWriter>(path, tensors, finished[f]));
    }
  }

  void join_file(std::size_t f) {
    if (writers[f] != nullptr) return;
    writers[f] = SafetensorsWriter::join(directory / layout.files[f].name, layout.files[f].tensors);
  }

  SafetensorsWriter& writer_of(const std::string& tensor) {
    const auto found = layout.file_of.find(tensor);
    if (joined && found != layout.file_of.end()) join_file(found->second);
    if (found == layout.file_of.end() || writers[found->second] == nullptr) {
      throw Error(ExitCode::internal, fmt::format("tensor '{}' has no place left in the output", tensor));
    }
    return *writers[found->second];
  }

  /// What the engine holds is what is written; tensors that it does not know, or holds in another shape, come
  /// from the source's files.
  void write_kept(const std::string& name, const BlockWeights& weights, const std::string& prefix,
                  Sha256& hash) {
    const auto found = weights.tensors.find(name.substr(prefix.size()));
    const bool as_it_was = found == weights.tensors.end() || model.architecture().transposed;
    if (!as_it_was) return write_hashed(name, found->second, hash);
    if (model.tensors().is_decoded(name)) return write_hashed(name, model.load_outside_blocks(name), hash);
    writer_of(name).copy(name, model.files(), &hash);
  }

  /// The same outside the blocks, where tensors that stay as they are need not be in memory.
  void write_outside_blocks(const std::string& name) {
    const bool as_it_was = model.rotation() == nullptr && !model.tensors().is_decoded(name);
    if (as_it_was) return writer_of(name).copy(name, model.files());
    writer_of(name).write(name, model.load_outside_blocks(name));
  }

  void write_hashed(const std::string& name, const HostTensor& tensor, Sha256& hash) {
    writer_of(name).write(name, tensor);
    hash.update(tensor.storage.data(), tensor.storage.size());
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

Exporter::Exporter(const JobConfig& job, const ModelWeights& model, const Recipe& recipe, const JobMark& mark,
                   const std::vector<std::string>& finished)
    : state_(new State(job, model, recipe)) {
  State& s = *state_;
  const auto tensors = s.finished_tensors(finished.size());
  std::copy(finished.begin(), finished.end(), s.block_sha256.begin());
  s.keep_partial = !finished.empty();
  s.require_frames(tensors);
  s.manifest.fingerprint = mark.result;
  s.manifest.created_by = "gptq-hpc " + version();
  s.manifest.output_format = job.output.format;
  claim_output_directory({s.directory, model.files().directory(), mark, job.output.overwrite,
                          room_needed(s.layout, s.companions), s.files_to_keep(tensors)});
  s.open_files(tensors);
}

Exporter::Exporter(std::unique_ptr<State> state) : state_(std::move(state)) {}

std::unique_ptr<Exporter> Exporter::join(const JobConfig& job, const ModelWeights& model,
                                         const Recipe& recipe) {
  auto state = std::make_unique<State>(job, model, recipe);
  state->joined = true;
  state->directory_synced = true;  // the owner's affair
  state->writers.resize(state->layout.files.size());
  return std::unique_ptr<Exporter>(new Exporter(std::move(state)));
}

Exporter::~Exporter() {
  if (!state_->keep_partial) return;
  for (const auto& writer : state_->writers) {
    if (writer != nullptr) writer->keep_partial();
  }
}

std::string Exporter::write_block(std::int64_t block, const BlockWeights& weights,
                                  const std::vector<QuantizedLayer>& layers) {
  State& s = *state_;
  const auto index = static_cast<std::size_t>(block);
  GPTQ_EXPECT(block >= 0 && index < s.places.size() && weights.block == block);
  const std::string prefix = block_prefix(s.model.architecture(), block);
  const std::set<std::string> kept(s.layout.copied[index].begin(), s.layout.copied[index].end());
  LayerTensors made(s.job.output, weights, layers, prefix, s.model.architecture().transposed);
  for (const std::string& name : made.names()) s.writer_of(name);  // none without a place
  Sha256 hash;
  for (const auto& [name, info] : s.places[index].tensors) {
    if (kept.contains(name)) {
      s.write_kept(name, weights, prefix, hash);
    } else if (const auto tensor = made.take(name, info.dtype)) {
      s.write_hashed(name, *tensor, hash);
    } else {
      throw Error(ExitCode::internal, fmt::format("block {} comes without tensor '{}'", block, name));
    }
  }
  s.block_sha256[index] = hash.hex();
  if (!s.joined) s.finish_files();
  return s.block_sha256[index];
}

void Exporter::write_head(const QuantizedLayer& head) {
  State& s = *state_;
  const BlockWeights no_biases;
  const std::vector<QuantizedLayer> layers{head};
  const std::string prefix;
  LayerTensors made(s.job.output, no_biases, layers, prefix, false);
  for (const std::string& name : s.layout.head) {
    const auto& file = s.layout.files[s.layout.file_of.at(name)].tensors;
    const auto place = std::find_if(file.begin(), file.end(), [&](const auto& t) { return t.first == name; });
    s.writer_of(name).write(name, made.take(name, place->second.dtype).value());
  }
}

void Exporter::written_elsewhere(std::int64_t block, const std::string& sha256) {
  State& s = *state_;
  const auto index = static_cast<std::size_t>(block);
  GPTQ_EXPECT(!s.joined && s.block_sha256.at(index).empty());
  std::vector<std::string> names;
  for (const auto& [name, info] : s.places[index].tensors) names.push_back(name);
  s.writers[s.places[index].file]->written_elsewhere(names);
  s.block_sha256[index] = sha256;
  s.finish_files();
}

void Exporter::head_written_elsewhere() {
  State& s = *state_;
  for (const std::string& name : s.layout.head) s.writer_of(name).written_elsewhere({name});
}

std::vector<std::string> Exporter::block_sha256() const {
  const auto& all = state_->block_sha256;
  return {all.begin(), std::find(all.begin(), all.end(), std::string())};
}

void Exporter::sync() {
  State& s = *state_;
  for (const auto& writer : s.writers) {
    if (writer != nullptr) writer->sync();
  }
  if (!s.directory_synced) sync_directory(s.directory);
  s.directory_synced = true;
}

void Exporter::keep_partial_files() {
  state_->keep_partial = true;
}

void Exporter::finish() {
  State& s = *state_;
  for (const std::string& name : s.layout.outside_blocks) s.write_outside_blocks(name);
  s.finish_files();
  for (const auto& writer : s.writers) {
    if (writer != nullptr) writer->finish();  // says which tensor is missing
  }
  for (const fs::path& file : s.companions) s.write_text(file.filename().string(), read_text_file(file));
  std::string quantize_config;
  if (!is_dequantized(s.job.output)) {
    quantize_config = quantize_config_json(s.job, s.model, s.recipe);
    s.write_text("quantize_config.json", quantize_config);
  }
  if (s.layout.files.size() > 1) s.write_text("model.safetensors.index.json", s.layout.index_json());
  const std::string source_config = read_text_file(s.model.files().directory() / "config.json");
  s.write_text("config.json", output_config_json(source_config, s.model, quantize_config));
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
