#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

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
  std::vector<std::string> outside_blocks;       ///< tensors that are copied when all blocks are written
  std::vector<std::string> head;                 ///< packed tensors in place of the head's weight, if any
  std::vector<std::vector<std::string>> copied;  ///< per block: tensors that stay as they are

  std::string index_json() const;  ///< model.safetensors.index.json
};

/// Files hold whole blocks in model order: the embedding first, then the blocks, then everything else; a new
/// file starts where max_file_bytes would be exceeded. A quantized head is packed like a layer. Left out: the
/// head of a model that ties it to the embedding, and rotary inv_freq buffers. Throws InputError if the
/// source is quantized already.
OutputLayout lay_out_output(const ModelWeights& model, const Recipe& recipe, std::uint64_t max_file_bytes);

}  // namespace gptq
