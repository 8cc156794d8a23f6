#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "quant/quantized_layer.h"

namespace gptq {

/// What one rank puts into a generation (docs/checkpoint-format.md): borrowed views of memory that must not
/// change while the file is written.
struct RankState {
  std::int64_t generation = 0;
  int rank = 0;
  std::int64_t block = 0;
  std::int64_t group = 0;
  std::vector<std::int64_t> samples;  ///< global indices, ascending and consecutive
  std::vector<std::int64_t> lengths;  ///< tokens of each
  Matrix hidden;                      ///< (tokens, hidden_size) f32
  Matrix x;                           ///< (tokens, width) bf16 or f32; no data: not part of the state
  Matrix hidden_before;               ///< (tokens, hidden_size) f32; no data: not part of the state
  Matrix reference_hidden;            ///< of the full-precision stream; no data: there is none
  Matrix reference_x;                 ///< likewise
  Matrix held_out_hidden;  ///< (tokens of the last samples, hidden_size) f32; no data: there is none
  std::span<const std::int64_t> sum;    ///< empty: outside a sum
  std::span<const std::int64_t> cross;  ///< empty: not summed
  std::vector<std::int64_t> chunks_summed;
  const std::vector<QuantizedLayer>* layers =
      nullptr;  ///< finished layers of the present block; the root's only
};

struct WrittenFile {
  std::uint64_t bytes = 0;
  std::string sha256;
};

/// Writes `path` + ".partial", closes and syncs it, reads it back comparing every byte with memory while
/// hashing the whole, and renames it. Needs no memory beyond a few pieces of 16 MiB. Throws IoError; then
/// nothing is left behind under the final name, and the partial file is removed if the file system lets it.
WrittenFile write_rank_file(const std::filesystem::path& path, const RankState& state);

/// Reads parts of a rank file whose hash was found good. Throws InputError naming the file where it is not
/// what its manifest says.
class RankFile {
 public:
  /// What the file says of itself.
  struct Header {
    std::int64_t generation = 0;
    std::int64_t rank = 0;
    std::int64_t block = 0;
    std::int64_t group = 0;
  };

  explicit RankFile(const std::filesystem::path& path);
  ~RankFile();
  RankFile(const RankFile&) = delete;
  RankFile& operator=(const RankFile&) = delete;

  const Header& header() const;

  const std::vector<std::int64_t>& samples() const;
  const std::vector<std::int64_t>& lengths() const;
  const std::vector<std::int64_t>& chunks_summed() const;
  /// kActivations (checkpoint_format.h), "held_out_hidden", "sum", "cross"
  bool has(const std::string& dataset) const;
  DType dtype(const std::string& dataset) const;           ///< of activations
  std::int64_t columns(const std::string& dataset) const;  ///< of these; for a sum the number of entries
  /// Rows of the samples [first, first + count) (global indices) into `target`, whose rows, columns and type
  /// must fit. dataset: one of the activations, or "held_out_hidden", which has rows of the last samples
  /// only.
  void read_rows(const std::string& dataset, std::int64_t first, std::int64_t count,
                 const Matrix& target) const;
  /// Adds one of the file's sums ("sum", "cross") to `values` (same size).
  void add_sum(const std::string& dataset, std::span<std::int64_t> values) const;
  std::vector<QuantizedLayer> layers() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A file of virtual datasets over the rank files, which must lie in the same directory: "samples",
/// "lengths", "hidden" and, where all have them, the other activations; rows in the order of the samples.
/// By sync and rename. Throws IoError; InputError if the rank files do not belong together.
void write_view_file(const std::filesystem::path& path, const std::vector<std::filesystem::path>& rank_files);

}  // namespace gptq
