#pragma once

#include <filesystem>
#include <string>

namespace gptq {

/// SHA-256 over which token has which id, from the model's tokenizer.json: the lines "ID TOKEN" of its vocabulary and
/// added tokens, sorted by id, then by bytes. Programs that save a tokenizer again write another file with the same
/// words; this tells the words. Empty if there is no such file or it lists none.
std::string vocabulary_sha256(const std::filesystem::path& model_directory);

}  // namespace gptq
