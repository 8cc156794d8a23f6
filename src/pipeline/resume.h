#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "io/checkpoint_directory.h"
#include "pipeline/activations.h"
#include "pipeline/safe_point.h"

namespace gptq {

/// What is wrong with this rank's share of the finished blocks in the output's files; nothing if they are
/// good.
using DamageInBlocks =
    std::function<std::optional<std::string>(const std::vector<std::string>& block_sha256)>;

/// What there is to go on from.
struct FoundCheckpoint {
  std::optional<CheckpointManifest> good;  ///< the newest generation that is good in every file
  std::vector<std::int64_t> damaged;       ///< newer ones, passed over with a warning
};

/// Looked for by all ranks together. Throws on every rank (IoError) if the checkpoint belongs to another job,
/// with the keys that differ, or if there are generations and none is good. Reads only. Collective.
/// other_backend: one written by another backend will do.
FoundCheckpoint find_checkpoint(const CheckpointDirectory& directory,
                                const std::map<std::string, std::string>& identity, bool other_backend,
                                const DamageInBlocks& damage, Communicator& comm);

/// What the streams hold where the manifest says: widths of their steps' inputs, of which the group's sum has
/// a part or all.
struct InputWidths {
  std::int64_t quantized = 0, reference = 0;
  std::int64_t summed = 0;
};

/// This rank's samples; null: there are none of the kind.
struct StreamsToRestore {
  Activations* quantized = nullptr;
  Activations* reference = nullptr;
  Activations* held_out = nullptr;  ///< the reference of the held-out samples alone
};

/// In place of a rank's number: one that holds no samples of the block where the checkpoint was taken.
inline constexpr int kHelper = -1;

/// Brings this rank's samples and its part of the sums back from a good generation, whatever ranks wrote it.
/// rank, ranks: among those that hold the block; a helper gets the position and what was finished. No streams
/// for round-to-nearest.
/// Throws InputError if files that are whole contradict each other. Not collective.
BlockStart restore(const CheckpointDirectory& directory, const CheckpointManifest& manifest,
                   const InputWidths& widths, const StreamsToRestore& streams, int rank, int ranks);

}  // namespace gptq
