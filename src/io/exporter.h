#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "config/job_config.h"
#include "model/weights.h"
#include "quant/quantized_layer.h"
#include "quant/recipe.h"

namespace gptq {

/// Writes the output model block by block. Until finish() the directory holds `.partial` files and a marker
/// `.gptq-hpc-job` with the job's fingerprint; config.json, the index and manifest.json come last, so a
/// directory without them is not an output. One rank owns the exporter.
class Exporter {
 public:
  /// Refuses (IoError) a directory that holds something that is neither this job's own nor covered by
  /// overwrite; and checks that it is writable and has the room needed.
  Exporter(const JobConfig& job, const ModelWeights& model, const Recipe& recipe,
           const std::string& fingerprint);
  ~Exporter();

  /// Everything of the block: quantized layers packed, all its other tensors copied in their own dtype.
  void write_block(std::int64_t block, const BlockWeights& weights,
                   const std::vector<QuantizedLayer>& layers);
  /// Embedding, final norm, head (unless tied), files of the tokenizer, config.json, quantize_config.json,
  /// index, manifest.json (SHA-256 and size of every file).
  void finish();
  const std::filesystem::path& directory() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// True when `directory` holds a finished output of the job with this fingerprint.
bool is_finished_output(const std::filesystem::path& directory, const std::string& fingerprint);

}  // namespace gptq
