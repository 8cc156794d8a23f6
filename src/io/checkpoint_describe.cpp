#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/file.h"
#include "io/checkpoint_directory.h"
#include "io/checkpoint_file.h"
#include "io/checkpoint_format.h"
#include "io/description.h"

namespace gptq {
namespace {

namespace fs = std::filesystem;

std::string samples_text(std::int64_t first, std::int64_t end) {
  if (first >= end) return "no samples";
  return end - first == 1 ? fmt::format("sample {}", first) : fmt::format("samples {} to {}", first, end - 1);
}

/// "good", or what is wrong with a file.
std::string state_of(const CheckpointDirectory& directory, const CheckpointManifest::File& file) {
  try {
    directory.verify_file(file);
    return "good";
  } catch (const Error& error) {
    return fmt::format("NOT GOOD: {}", error.what());
  }
}

std::string position_text(const CheckpointManifest& manifest) {
  std::int64_t chunks = 0;
  for (const auto& file : manifest.files) chunks += static_cast<std::int64_t>(file.chunks_summed.size());
  const std::string where = fmt::format("block {}, stage group {}", manifest.block, manifest.group);
  return chunks == 0 ? where + ", before its sum" : where + fmt::format(", {} chunks of its sum", chunks);
}

void add_keys(Description& out, const char* label, const std::map<std::string, std::string>& keys) {
  for (const auto& [key, value] : keys) {
    out.line(label, fmt::format("{}: {}", key, value));
    label = "";
  }
}

void add_files(Description& out, const CheckpointDirectory& directory, const CheckpointManifest& manifest,
               bool& good) {
  const char* label = "files";
  for (const auto& file : manifest.files) {
    const std::string state = state_of(directory, file);
    good = good && state == "good";
    out.line(label, fmt::format("{}: {} bytes, {}{}, SHA-256 {}", file.name, grouped(file.bytes),
                                samples_text(file.first_sample, file.end_sample),
                                file.chunks_summed.empty()
                                    ? ""
                                    : fmt::format(", sum of {} chunks", file.chunks_summed.size()),
                                file.sha256));
    out.line("", state);
    label = "";
  }
  if (manifest.files.empty()) out.line(label, "none: this job has no activations");
}

std::string describe(const CheckpointDirectory& directory, const CheckpointManifest& manifest) {
  Description body("");
  bool good = true;
  body.line("written", fmt::format("{} by {}", manifest.written, manifest.created_by));
  body.line("position", position_text(manifest));
  body.line("progress", fmt::format("{} blocks and {} layers finished, {:.1f} s of work in {} attempt(s)",
                                    manifest.block_sha256.size(), manifest.layers.size(), manifest.seconds,
                                    manifest.attempts));
  add_files(body, directory, manifest, good);
  add_keys(body, "identity", manifest.identity);
  add_keys(body, "made with", manifest.made_with);
  return fmt::format("{}: generation {} of a checkpoint, {}{}",
                     (directory.path() / manifest.file_name()).string(), manifest.generation,
                     good ? "good" : "NOT GOOD", body.text());
}

/// The file's entry in its manifest, or why there is none.
std::string state_by_manifest(const fs::path& path, std::int64_t generation) {
  const CheckpointDirectory directory(path.has_parent_path() ? path.parent_path() : fs::path("."));
  try {
    for (const auto& file : directory.read(generation).files) {
      if (file.name == path.filename()) return state_of(directory, file);
    }
    return "NOT GOOD: its manifest does not name it";
  } catch (const Error& error) {
    return fmt::format("does not count: {}", error.what());
  }
}

void add_content(Description& out, const RankFile& file) {
  const auto& header = file.header();
  const std::int64_t count = static_cast<std::int64_t>(file.samples().size());
  const std::int64_t first = count == 0 ? 0 : file.samples().front();
  const std::int64_t tokens = std::accumulate(file.lengths().begin(), file.lengths().end(), std::int64_t{0});
  out.line("written by", fmt::format("rank {}, generation {}", header.rank, header.generation));
  out.line("position", fmt::format("block {}, stage group {}", header.block, header.group));
  out.line("samples", fmt::format("{}, {} tokens", samples_text(first, first + count),
                                  grouped(static_cast<std::uint64_t>(tokens))));
  for (const char* name : checkpoint_format::kActivations) {
    if (file.has(name))
      out.line(name, fmt::format("{} x {} {}", tokens, file.columns(name), name_of(file.dtype(name))));
  }
  const char* const held_out = checkpoint_format::kHeldOutHidden;
  if (file.has(held_out))
    out.line(held_out, fmt::format("{} columns {}, of the held-out samples", file.columns(held_out),
                                   name_of(file.dtype(held_out))));
  for (const char* name : {"sum", "cross"}) {
    if (!file.has(name)) continue;
    out.line(name,
             fmt::format("{} entries, {} chunks", grouped(static_cast<std::uint64_t>(file.columns(name))),
                         file.chunks_summed().size()));
  }
  const char* label = "layers";
  for (const QuantizedLayer& layer : file.layers()) {
    out.line(label, fmt::format("{}: {} x {}, {} bit, {} group(s) a row", layer.module, layer.out_features,
                                layer.in_features, layer.bits, layer.groups));
    label = "";
  }
}

}  // namespace

std::string describe_generation(const fs::path& manifest_path) {
  const CheckpointManifest manifest = read_checkpoint_manifest(manifest_path);
  return describe(CheckpointDirectory(manifest_path.has_parent_path() ? manifest_path.parent_path() : "."),
                  manifest);
}

std::string describe_rank_file(const fs::path& path) {
  const auto name = parse_checkpoint_name(path.filename().string());
  GPTQ_EXPECT(name.has_value());
  const std::string state = state_by_manifest(path, name->generation);
  Description out(fmt::format("{}: a rank file of a checkpoint", path.string()));
  out.line("state", state);
  if (!state.starts_with("NOT GOOD")) add_content(out, RankFile(path));
  return out.text();
}

std::string describe_checkpoint(const fs::path& path) {
  const CheckpointDirectory directory(path);
  const std::vector<std::int64_t> generations = directory.generations();
  std::string text = fmt::format("{}: a checkpoint, {} generation(s)\n", path.string(), generations.size());
  for (const std::int64_t generation : generations) {
    try {
      text += describe(directory, directory.read(generation));
    } catch (const InputError& error) {
      text += fmt::format("generation {}: NOT GOOD: {}\n", generation, error.what());
    }
  }
  return text;
}

}  // namespace gptq
