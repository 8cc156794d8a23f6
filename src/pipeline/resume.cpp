#include "pipeline/resume.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "io/checkpoint_file.h"
#include "kernels/kernels.h"

namespace gptq {
namespace {

/// What is wrong with the files that fall to this rank; empty if they are good.
std::string damage_in_files(const CheckpointDirectory& directory, const CheckpointManifest& manifest,
                            int rank, int ranks) {
  for (std::size_t i = static_cast<std::size_t>(rank); i < manifest.files.size();
       i += static_cast<std::size_t>(ranks)) {
    try {
      directory.verify_file(manifest.files[i]);
    } catch (const Error& error) {
      return error.what();
    }
  }
  return "";
}

/// The same text on every rank: the first one that is not empty.
std::string first_damage(const std::string& mine, Communicator& comm) {
  for (const auto& bytes : comm.all_gather(std::as_bytes(std::span(mine)))) {
    if (!bytes.empty()) return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  return "";
}

/// A generation's manifest, on every rank; or what is wrong with the generation.
std::string examine(const CheckpointDirectory& directory, std::int64_t generation,
                    const std::map<std::string, std::string>& identity, const DamageInBlocks& damage,
                    Communicator& comm, CheckpointManifest& manifest) {
  std::string mine;
  try {
    manifest = directory.read(generation);
  } catch (const Error& error) {
    mine = error.what();
  }
  std::string all = first_damage(mine, comm);
  if (!all.empty()) return all;
  const std::vector<std::string> differing = differing_keys(manifest.identity, identity);
  if (!differing.empty()) {
    throw CollectiveError(
        ExitCode::io,
        fmt::format("the checkpoint in {} belongs to another job; restore these, or discard it with --fresh "
                    "--overwrite (checkpoint → now):\n  {}",
                    directory.path().string(), fmt::join(differing, "\n  ")));
  }
  mine = damage_in_files(directory, manifest, comm.rank(), comm.size());
  if (mine.empty()) mine = damage(manifest.block_sha256).value_or("");
  return first_damage(mine, comm);
}

/// Copies the rank's samples out of the files that hold them.
void read_samples(const RankFile& file, const CheckpointManifest::File& entry, const std::string& dataset,
                  std::int64_t first, std::int64_t count, const Batch& batch, const Matrix& target) {
  const std::int64_t from = std::max(first, entry.first_sample);
  const std::int64_t to = std::min(first + count, entry.end_sample);
  if (from >= to) return;
  const std::int64_t first_row = batch.offsets[static_cast<std::size_t>(from - first)];
  const std::int64_t rows = batch.offsets[static_cast<std::size_t>(to - first)] - first_row;
  file.read_rows(dataset, from, to - from, target.rows_from(first_row, rows));
}

void read_activations(const RankFile& file, const CheckpointManifest::File& entry, std::int64_t width,
                      Activations& activations, BlockStart& start) {
  const Matrix all = activations.all_hidden();
  for (std::size_t i = 0; i < activations.chunks(); ++i) {
    const Chunk& chunk = activations.chunk(i);
    const Batch& batch = activations.batch(i);
    const auto read = [&](const std::string& dataset, const Matrix& target) {
      read_samples(file, entry, dataset, chunk.first_sample, chunk.samples, batch, target);
    };
    const Matrix hidden = activations.hidden(i);
    read("hidden", hidden);
    if (start.group > 0) read("x", activations.x(i, width));
    if (start.group > 0 && file.has("hidden_before")) {
      if (start.hidden_before.size() == 0) {
        start.hidden_before = HostBuffer(static_cast<std::size_t>(all.rows * all.cols) * sizeof(float));
      }
      // The same place in the copy as in the original.
      Matrix before = hidden;
      before.data = start.hidden_before.data() +
                    (static_cast<std::byte*>(hidden.data) - static_cast<std::byte*>(all.data));
      read("hidden_before", before);
    }
  }
}

/// A chunk that two files count would be in the sum twice, and nobody would notice.
void require_chunks_once(const CheckpointDirectory& directory, const CheckpointManifest& manifest) {
  std::set<std::int64_t> seen;
  for (const CheckpointManifest::File& file : manifest.files) {
    for (const std::int64_t chunk : file.chunks_summed) {
      if (seen.insert(chunk).second) continue;
      throw InputError(
          "{}: chunk {} of the calibration is summed in two files; start over with --fresh --overwrite",
          (directory.path() / manifest.file_name()).string(), chunk);
    }
  }
}

bool holds_samples_of(const Activations& activations, const CheckpointManifest::File& entry) {
  if (activations.chunks() == 0) return false;
  const Chunk& last = activations.chunk(activations.chunks() - 1);
  return activations.chunk(0).first_sample < entry.end_sample &&
         entry.first_sample < last.first_sample + last.samples;
}

}  // namespace

FoundCheckpoint find_checkpoint(const CheckpointDirectory& directory,
                                const std::map<std::string, std::string>& identity,
                                const DamageInBlocks& damage, Communicator& comm) {
  // Other ranks may see an older listing on a network file system: the root's counts.
  std::vector<std::int64_t> generations;
  run_on_root(comm, [&] { generations = directory.generations(); });
  std::int64_t count = static_cast<std::int64_t>(generations.size());
  comm.broadcast(&count, sizeof(count), 0);
  generations.resize(static_cast<std::size_t>(count));
  comm.broadcast(generations.data(), generations.size() * sizeof(std::int64_t), 0);

  FoundCheckpoint found;
  for (const std::int64_t generation : generations) {
    CheckpointManifest manifest;
    const std::string wrong = examine(directory, generation, identity, damage, comm, manifest);
    if (wrong.empty()) {
      found.good = std::move(manifest);
      return found;
    }
    found.damaged.push_back(generation);
    if (comm.is_root()) log::warn("checkpoint generation {} is not good: {}", generation, wrong);
  }
  if (generations.empty()) return found;
  throw CollectiveError(
      ExitCode::io,
      fmt::format("none of the {} generation(s) in {} is good, see the warnings above; nothing was "
                  "changed. Bring the damaged files back, or start over with --fresh --overwrite.",
                  count, directory.path().string()));
}

BlockStart restore(const CheckpointDirectory& directory, const CheckpointManifest& manifest,
                   std::int64_t width, Activations* activations, int rank, int ranks) {
  BlockStart start;
  start.group = manifest.group;
  require_chunks_once(directory, manifest);
  for (const LayerStatistics& layer : manifest.layers) {
    if (layer.block == manifest.block) start.finished.statistics.push_back(layer);
  }
  for (std::size_t i = 0; i < manifest.files.size(); ++i) {
    const CheckpointManifest::File& entry = manifest.files[i];
    start.sum.done_anywhere.insert(start.sum.done_anywhere.end(), entry.chunks_summed.begin(),
                                   entry.chunks_summed.end());
    const bool summed_here = static_cast<int>(i % static_cast<std::size_t>(ranks)) == rank;
    const bool sampled_here = activations != nullptr && holds_samples_of(*activations, entry);
    if (i > 0 && !summed_here && !sampled_here)
      continue;  // thousands of ranks should not open thousands of files each
    const RankFile file(directory.path() / entry.name);
    if (activations != nullptr) read_activations(file, entry, width, *activations, start);
    if (i == 0) start.finished.layers = file.layers();
    if (!summed_here || !file.has("sum")) continue;
    start.sum.chunks.insert(start.sum.chunks.end(), entry.chunks_summed.begin(), entry.chunks_summed.end());
    if (start.sum.panels.empty())
      start.sum.panels.assign(static_cast<std::size_t>(TriangularPanels::size(width)), 0);
    file.add_sum(start.sum.panels);
  }
  return start;
}

}  // namespace gptq
