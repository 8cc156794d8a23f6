#pragma once

#include <string>

#include "model/safetensors_reader.h"

namespace gptq {

/// SHA-256 that tells one set of weights from another without reading all of them: every tensor's name, type, shape
/// and place, and its first, middle and last bytes. Training changes all of those; a copied or touched file changes
/// none.
std::string weights_sha256(const SafetensorsReader& files);

}  // namespace gptq
