#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gptq {

class JsonFields;

/// Rows and columns of a weight that share a scale.
struct Fp8Block {
  std::int64_t rows = 0;
  std::int64_t cols = 0;

  bool operator==(const Fp8Block&) const = default;
};

/// quantization_config of a model whose linears are stored in fp8 (e4m3) with scales beside them, as
/// transformers and vLLM write it: quant_method fp8 (DeepSeek's blocks of 128 × 128; one scale a weight),
/// fbgemm_fp8 (one a row), compressed-tensors (either, or groups of columns), modelopt (one a weight).
struct Fp8Config {
  bool present = false;
  std::string method;  ///< quant_method
  /// What else than a whole weight or one of its rows may share a scale. Which of them a weight has is told
  /// by the shape of its scales.
  std::vector<Fp8Block> blocks;
};

/// Whether quant_method is one of those above.
bool is_fp8_method(const std::string& method);
/// All of them, for messages.
std::string fp8_methods();

/// fields: all of config.json. Not present where quantization_config is missing or of another method. Throws
/// InputError for a form of weights that this program cannot read.
Fp8Config read_fp8_config(const JsonFields& fields);

}  // namespace gptq
