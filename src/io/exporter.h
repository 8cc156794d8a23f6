#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "config/job_config.h"
#include "io/finished_blocks.h"
#include "io/output_directory.h"
#include "model/weights.h"
#include "quant/quantized_layer.h"
#include "quant/recipe.h"

namespace gptq {

/// Writes the output model block by block. Until finish() the directory holds `.partial` files and a marker
/// `.gptq-hpc-job` that says whose it is; config.json, the index and manifest.json come last, so a
/// directory without them is not an output. One rank owns the output; others may write blocks beside it, with
/// exporters that joined it.
class Exporter {
 public:
  /// Refuses (IoError) a directory that holds something that is neither this job's own nor covered by
  /// overwrite; and checks that it is writable and has the room needed. `finished`: hashes of the blocks 0,
  /// 1, … that a checkpoint says lie in the directory's files already (ask damage_in_finished_blocks first
  /// whether they still do). Files that hold one of them are taken up and outlive this object; if one does
  /// not fit, an IoError says so before anything is changed. All other files are made anew.
  Exporter(const JobConfig& job, const ModelWeights& model, const Recipe& recipe, const JobMark& mark,
           const std::vector<std::string>& finished = {});
  /// Of a rank that writes some of the blocks, or the head, into the files that the owner's exporter has
  /// made; the owner is told by written_elsewhere(), and finishes. A file is opened when its first block
  /// comes.
  static std::unique_ptr<Exporter> join(const JobConfig& job, const ModelWeights& model,
                                        const Recipe& recipe);
  ~Exporter();  ///< removes the partial files, unless told to keep them or gone on from finished blocks

  /// Everything of the block: quantized layers packed (or as ordinary weights, where output.format says so),
  /// all its other tensors in their own dtype (fp8 in config.json's), as in the source or as the rotation
  /// left them. Returns the SHA-256 over the bytes of its tensors in the file's order, taken from memory.
  std::string write_block(std::int64_t block, const BlockWeights& weights,
                          const std::vector<QuantizedLayer>& layers);
  /// The quantized head, where the recipe asks for one; once, before finish(), which misses it otherwise.
  void write_head(const QuantizedLayer& head);
  /// The block was written, and synced, by an exporter that joined; the hash that it gave.
  void written_elsewhere(std::int64_t block, const std::string& sha256);
  void head_written_elsewhere();
  /// Of blocks 0, 1, … up to the first that is not written.
  std::vector<std::string> block_sha256() const;
  /// What was written until now is on disk, names included.
  void sync();
  /// From now on a checkpoint counts on the partial files: they outlive this object. From any thread.
  void keep_partial_files();
  /// Embedding, final norm, head (unless tied), files of the tokenizer, config.json, quantize_config.json
  /// (unless dequantized), index, manifest.json (SHA-256 and size of every file).
  void finish();
  const std::filesystem::path& directory() const;

 private:
  struct State;
  explicit Exporter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// True when `directory` holds a finished output of the job with this fingerprint.
bool is_finished_output(const std::filesystem::path& directory, const std::string& fingerprint);

}  // namespace gptq
