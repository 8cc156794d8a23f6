#pragma once

#include <string>
#include <vector>

#include "model/architectures.h"
#include "model/safetensors_reader.h"

namespace gptq {

/// Linears stored in GPTQ form (MODULE.qweight, .qzeros, .scales, .g_idx) read as ordinary weights.

bool is_packed_linear(const SafetensorsReader& reader, const std::string& module);

/// What is wrong with the shapes and types of such a module, one text each; reads headers only.
std::vector<std::string> packed_linear_mistakes(const SafetensorsReader& reader, const std::string& module,
                                                const LinearShape& shape,
                                                const ModelConfig::Quantized& quantized);

/// (out, in) floats: scale · (code − zero). Throws InputError for tensors that do not fit together. A missing
/// g_idx means consecutive groups.
HostTensor load_packed_linear(const SafetensorsReader& reader, const std::string& module,
                              const ModelConfig::Quantized& quantized);

}  // namespace gptq
