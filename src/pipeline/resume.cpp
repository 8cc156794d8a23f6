#include "pipeline/resume.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "io/checkpoint_file.h"
#include "kernels/kernels.h"
#include "pipeline/job_context.h"

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

/// The identity as if this job computed where the checkpoint was written.
std::map<std::string, std::string> with_backend_of(const CheckpointManifest& manifest,
                                                   std::map<std::string, std::string> identity) {
  const auto there = manifest.identity.find(kBackendKey);
  if (there == manifest.identity.end()) return identity;
  std::string& here = identity[kBackendKey];
  if (here != there->second) {
    log::warn(
        "going on with {} from a checkpoint that was computed with {}: the result will have the bytes of "
        "neither alone",
        here, there->second);
  }
  here = there->second;
  return identity;
}

/// Would the checkpoint do, had it been computed by this job's backend?
bool only_the_backend(std::map<std::string, std::string> old_identity,
                      std::map<std::string, std::string> identity) {
  return work_fingerprint_of(std::move(old_identity)) == work_fingerprint_of(std::move(identity));
}

/// A generation's manifest, on every rank; or what is wrong with the generation.
std::string examine(const CheckpointDirectory& directory, std::int64_t generation,
                    const std::map<std::string, std::string>& identity, bool other_backend,
                    const DamageInBlocks& damage, Communicator& comm, CheckpointManifest& manifest) {
  std::string mine;
  try {
    manifest = directory.read(generation);
  } catch (const Error& error) {
    mine = error.what();
  }
  std::string all = first_damage(mine, comm);
  if (!all.empty()) return all;
  const std::vector<std::string> differing =
      differing_keys(manifest.identity, other_backend ? with_backend_of(manifest, identity) : identity);
  if (!differing.empty()) {
    throw CollectiveError(
        ExitCode::io,
        fmt::format(
            "the checkpoint in {} belongs to another job; restore these, or discard it with --fresh "
            "--overwrite (checkpoint → now):\n  {}{}",
            directory.path().string(), fmt::join(differing, "\n  "),
            only_the_backend(manifest.identity, identity)
                ? "\nThe work itself would fit: --set checkpoint.other_backend=accept goes on from it "
                  "(see the reference for what that means)."
                : ""));
  }
  mine = damage_in_files(directory, manifest, comm.rank(), comm.size());
  if (mine.empty()) mine = damage(manifest.block_sha256).value_or("");
  return first_damage(mine, comm);
}

/// The rows of one chunk that a file holds, in host memory.
struct ChunkPart {
  std::int64_t first_sample = 0;
  std::int64_t samples = 0;
  std::int64_t first_row = 0;  ///< in the chunk
  std::int64_t rows = 0;

  ChunkPart(const Chunk& chunk, const Batch& batch, const CheckpointManifest::File& entry) {
    first_sample = std::max(chunk.first_sample, entry.first_sample);
    samples = std::min(chunk.first_sample + chunk.samples, entry.end_sample) - first_sample;
    if (samples <= 0) return;
    const auto offset = [&](std::int64_t sample) {
      return batch.offsets[static_cast<std::size_t>(sample - chunk.first_sample)];
    };
    first_row = offset(first_sample);
    rows = offset(first_sample + samples) - first_row;
  }
  HostTensor read(const RankFile& file, const char* dataset, DType dtype, std::int64_t width) const {
    HostTensor tensor = make_tensor(dtype, {rows, width});
    // A matrix of one row is seen as such, whatever its shape.
    file.read_rows(dataset, first_sample, samples, {tensor.storage.data(), dtype, rows, width, width});
    return tensor;
  }
};

Matrix rows_of(const HostTensor& tensor) {
  return {tensor.storage.data(), tensor.dtype, tensor.shape[0], tensor.shape[1], tensor.shape[1]};
}

/// One stream's part of a file, under the names that its data sets have there. width: of x; 0: it is not a
/// part of the state.
void read_stream(const RankFile& file, const CheckpointManifest::File& entry, const char* hidden,
                 const char* x, std::int64_t width, Activations& activations) {
  for (std::size_t i = 0; i < activations.chunks(); ++i) {
    const ChunkPart part(activations.chunk(i), activations.batch(i), entry);
    if (part.samples <= 0) continue;
    const std::int64_t hidden_size = activations.hidden_size();
    activations.write_hidden(i, part.first_row, rows_of(part.read(file, hidden, DType::f32, hidden_size)));
    if (width > 0)
      activations.write_x(i, part.first_row, rows_of(part.read(file, x, activations.compute(), width)));
  }
}

void read_block_input(const RankFile& file, const CheckpointManifest::File& entry,
                      const Activations& activations, BlockStart& start) {
  if (!file.has("hidden_before")) return;
  for (std::size_t i = 0; i < activations.chunks(); ++i) {
    const ChunkPart part(activations.chunk(i), activations.batch(i), entry);
    if (part.samples <= 0) continue;
    const std::int64_t hidden_size = activations.hidden_size();
    if (start.hidden_before.size() == 0) start.hidden_before = activations.empty_hidden();
    activations.write_hidden_copy(start.hidden_before, i, part.first_row,
                                  rows_of(part.read(file, "hidden_before", DType::f32, hidden_size)));
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

/// Versions without end-to-end figures did not keep the stream.
void require_held_out(const RankFile& file, const std::filesystem::path& path) {
  if (file.has("held_out_hidden")) return;
  throw InputError(
      "{} has no held_out_hidden: it was written by an older version of this program; resume with that one, "
      "or "
      "start over with --fresh --overwrite",
      path.string());
}

bool holds_samples_of(const Activations& activations, const CheckpointManifest::File& entry) {
  if (activations.chunks() == 0) return false;
  const Chunk& last = activations.chunk(activations.chunks() - 1);
  return activations.chunk(0).first_sample < entry.end_sample &&
         entry.first_sample < last.first_sample + last.samples;
}

}  // namespace

FoundCheckpoint find_checkpoint(const CheckpointDirectory& directory,
                                const std::map<std::string, std::string>& identity, bool other_backend,
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
    const std::string wrong = examine(directory, generation, identity, other_backend, damage, comm, manifest);
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
                   const InputWidths& widths, const StreamsToRestore& streams, int rank, int ranks) {
  BlockStart start;
  Activations* const activations = streams.quantized;
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
    const bool has_x = start.group > 0;
    if (activations != nullptr) {
      read_stream(file, entry, "hidden", "x", has_x ? widths.quantized : 0, *activations);
      read_block_input(file, entry, *activations, start);
    }
    if (streams.reference != nullptr)
      read_stream(file, entry, "reference_hidden", "reference_x", has_x ? widths.reference : 0,
                  *streams.reference);
    if (streams.held_out != nullptr) {
      require_held_out(file, directory.path() / entry.name);
      read_stream(file, entry, "held_out_hidden", "", 0, *streams.held_out);
    }
    if (i == 0) start.finished.layers = file.layers();
    if (!summed_here || !file.has("sum")) continue;
    start.sum.chunks.insert(start.sum.chunks.end(), entry.chunks_summed.begin(), entry.chunks_summed.end());
    if (start.sum.panels.empty())
      start.sum.panels.assign(static_cast<std::size_t>(TriangularPanels::size(widths.summed)), 0);
    file.add_sum("sum", start.sum.panels);
    if (!file.has("cross")) continue;
    if (start.sum.cross.empty()) start.sum.cross.assign(static_cast<std::size_t>(file.columns("cross")), 0);
    file.add_sum("cross", start.sum.cross);
  }
  return start;
}

}  // namespace gptq
