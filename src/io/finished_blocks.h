#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/job_config.h"
#include "io/output_layout.h"
#include "model/weights.h"
#include "quant/recipe.h"

namespace gptq {

/// SHA-256 of blocks in the output, by number, as Exporter::write_block gives it.
using BlockHashes = std::map<std::int64_t, std::string>;

/// Where a block lies in the output.
struct BlockPlace {
  std::size_t file = 0;                                     ///< index in OutputLayout::files
  std::vector<std::pair<std::string, TensorInfo>> tensors;  ///< in the file's order, with offset and bytes
};

/// One entry a block.
std::vector<BlockPlace> places_of_blocks(const ModelWeights& model, const OutputLayout& layout);

/// One of several readers that share the work: it looks at blocks part, part + parts, …
struct BlockShare {
  int part = 0;
  int parts = 1;
};

/// Compares blocks 0 … block_sha256.size() - 1 of an interrupted output, in its partial or finished files,
/// with the hashes that Exporter::write_block gave. Returns the first damage as text for a warning (block,
/// file and what is wrong), nothing if all is good. Changes nothing, and needs a few megabytes whatever the
/// model.
std::optional<std::string> damage_in_finished_blocks(const JobConfig& job, const ModelWeights& model,
                                                     const Recipe& recipe,
                                                     const std::vector<std::string>& block_sha256,
                                                     BlockShare share = {});

}  // namespace gptq
