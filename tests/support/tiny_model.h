#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace gptq::test {

/// A model small enough to quantize in a blink.
struct TinyModelOptions {
  std::string model_type = "llama";  ///< llama | mistral | qwen2 (q, k, v biases) | qwen3 (q, k norms)
  std::int64_t hidden = 64;
  std::int64_t layers = 2;
  std::int64_t heads = 4;
  std::int64_t kv_heads = 2;
  std::int64_t intermediate = 96;
  std::int64_t vocab = 128;
  bool tie = true;
  std::uint64_t seed = 1;
  DType dtype = DType::bf16;
  int shards = 1;  ///< files; blocks are dealt over them
};

/// Makes `directory` with config.json, safetensors (and index, if sharded), a dummy tokenizer.json and
/// generation_config.json. Linear weights are N(0, 1/in_features) with some columns eight times as large, as
/// real models have; norm weights are close to 1. The same options give the same bytes.
void write_tiny_model(const std::filesystem::path& directory, const TinyModelOptions& options = {});

/// Where short samples of a calibration file have their padding.
enum class Padding { right, masked_left };

/// Writes a calibration file of random ids: each sample draws from its own few favourite tokens, so that
/// Hessians are not flat. ragged: lengths between seqlen/2 and seqlen, padded on the right, or on the left
/// with an attention mask (a file of version 2); the samples are the same.
void write_calibration(const std::filesystem::path& path, std::int64_t samples, std::int64_t seqlen,
                       std::int64_t vocab, std::uint64_t seed, bool ragged = false,
                       Padding padding = Padding::right);
/// These samples of ids, padded on the right to the longest.
void write_samples(const std::filesystem::path& path, const std::vector<std::vector<std::int32_t>>& samples,
                   std::int64_t vocab);

}  // namespace gptq::test
