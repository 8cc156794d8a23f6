#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "config/job_config.h"
#include "model/safetensors_reader.h"
#include "model/weights.h"
#include "quant/recipe.h"

namespace gptq {

/// Every tensor of the output and the file it goes to, known before the first one is computed.
struct OutputLayout {
  struct File {
    std::string name;  ///< "model-00001-of-00003.safetensors"
    std::vector<std::pair<std::string, TensorInfo>> tensors;
  };
  std::vector<File> files;
  std::map<std::string, std::size_t> file_of;    ///< tensor → index in files
  std::uint64_t tensor_bytes = 0;                ///< sum over tensors
  std::vector<std::string> outside_blocks;       ///< tensors that are written when all blocks are
  std::vector<std::string> head;                 ///< of a quantized head, in place of its weight
  std::vector<std::vector<std::string>> copied;  ///< per block: tensors of no quantized layer

  std::string index_json() const;  ///< model.safetensors.index.json
};

/// Whether quantized layers are written as ordinary weights.
bool is_dequantized(const OutputSection& output);

/// Files hold whole blocks in model order: the embedding first, then the blocks, then everything else; a new
/// file starts where output.max_shard_bytes would be exceeded. A quantized head is stored like a layer. Left
/// out: the head of a model that ties it to the embedding (a rotated one does not), rotary inv_freq buffers,
/// and the scales of an fp8 source, whose weights count as ordinary ones (SourceTensors). Throws InputError
/// if the source is quantized already, UsageError if the head cannot be.
OutputLayout lay_out_output(const ModelWeights& model, const Recipe& recipe, const OutputSection& output);

}  // namespace gptq
