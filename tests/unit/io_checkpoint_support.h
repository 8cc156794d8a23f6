#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/file.h"
#include "io/checkpoint_directory.h"
#include "io/checkpoint_file.h"

namespace gptq::test {

/// Memory of one rank with recognizable values: whatever lands in the wrong place differs.
struct RankMemory {
  std::vector<float> hidden;
  std::vector<float> hidden_before;
  std::vector<float> held_out;
  std::vector<std::uint16_t> x_bf16;
  std::vector<float> x_f32;
  std::vector<std::int64_t> sum;
  std::vector<QuantizedLayer> layers;
  RankState state;
};

struct RankShape {
  std::int64_t first_sample = 0;
  std::vector<std::int64_t> lengths = {3, 5, 2};
  std::int64_t hidden = 8;
  std::int64_t x_width = 12;  ///< 0: no x
  DType x_dtype = DType::bf16;
  bool hidden_before = false;
  std::size_t held_out = 0;          ///< the last so many samples have a stream of their own
  std::vector<std::int64_t> chunks;  ///< empty: no sum
  std::size_t sum_entries = 40;
  int layers = 0;
  std::int64_t generation = 7;
  int rank = 0;
};

inline QuantizedLayer test_layer(int i) {
  QuantizedLayer layer;
  // Names whose alphabetical order is not the order they are written in.
  layer.module = "model.layers.3.mlp." + std::string(1, static_cast<char>('z' - i));
  layer.out_features = 4 + i;
  layer.in_features = 6;
  layer.groups = 2;
  layer.bits = 3 + i;
  for (std::int64_t j = 0; j < layer.out_features * layer.in_features; ++j) {
    layer.codes.push_back(static_cast<std::uint8_t>(j * 7 + i));
  }
  for (std::int64_t j = 0; j < layer.out_features * layer.groups; ++j) {
    layer.scales.push_back({static_cast<std::uint16_t>(0x3000 + 11 * j + i)});
    layer.zeros.push_back(static_cast<std::uint8_t>(8 + j));
  }
  for (std::int64_t j = 0; j < layer.in_features; ++j)
    layer.group_of.push_back(static_cast<std::int32_t>(j % 2));
  return layer;
}

inline Matrix matrix_of(void* data, DType dtype, std::int64_t rows, std::int64_t cols) {
  return {data, dtype, rows, cols, cols};
}

/// Fills memory in place: the state borrows from the object it lies in.
inline void fill(RankMemory& memory, const RankShape& shape) {
  RankState& state = memory.state;
  state.generation = shape.generation;
  state.rank = shape.rank;
  state.block = 3;
  state.group = 1;
  std::int64_t tokens = 0;
  for (std::size_t s = 0; s < shape.lengths.size(); ++s) {
    state.samples.push_back(shape.first_sample + static_cast<std::int64_t>(s));
    tokens += shape.lengths[s];
  }
  state.lengths = shape.lengths;
  const auto value = [&](std::int64_t i) {
    return static_cast<float>(shape.first_sample * 1000 + i) + 0.25F;
  };
  for (std::int64_t i = 0; i < tokens * shape.hidden; ++i) {
    memory.hidden.push_back(value(i));
    memory.hidden_before.push_back(-value(i));
  }
  for (std::int64_t i = 0; i < tokens * shape.x_width; ++i) {
    memory.x_bf16.push_back(static_cast<std::uint16_t>(shape.first_sample * 4099 + i * 3));
    memory.x_f32.push_back(value(i) * 3);
  }
  state.hidden = matrix_of(memory.hidden.data(), DType::f32, tokens, shape.hidden);
  if (shape.hidden_before) {
    state.hidden_before = matrix_of(memory.hidden_before.data(), DType::f32, tokens, shape.hidden);
  }
  std::int64_t held_out = 0;
  for (std::size_t s = shape.lengths.size() - shape.held_out; s < shape.lengths.size(); ++s)
    held_out += shape.lengths[s];
  for (std::int64_t i = 0; i < held_out * shape.hidden; ++i) memory.held_out.push_back(value(i) / 2);
  if (shape.held_out > 0)
    state.held_out_hidden = matrix_of(memory.held_out.data(), DType::f32, held_out, shape.hidden);
  void* x = shape.x_dtype == DType::bf16 ? static_cast<void*>(memory.x_bf16.data()) : memory.x_f32.data();
  if (shape.x_width > 0) state.x = matrix_of(x, shape.x_dtype, tokens, shape.x_width);
  if (!shape.chunks.empty()) {
    for (std::size_t i = 0; i < shape.sum_entries; ++i) {
      memory.sum.push_back((static_cast<std::int64_t>(i) - 5) * (std::int64_t{1} << 40) + shape.first_sample);
    }
    state.sum = memory.sum;
    state.chunks_summed = shape.chunks;
  }
  for (int i = 0; i < shape.layers; ++i) memory.layers.push_back(test_layer(i));
  if (shape.layers > 0) state.layers = &memory.layers;
}

inline CheckpointManifest::File write_rank(const std::filesystem::path& directory, const RankShape& shape) {
  RankMemory memory;
  fill(memory, shape);
  const std::string name = checkpoint_file_name(shape.generation, shape.rank);
  const WrittenFile written = write_rank_file(directory / name, memory.state);
  const auto samples = static_cast<std::int64_t>(shape.lengths.size());
  return {name,        written.bytes, written.sha256, shape.first_sample, shape.first_sample + samples,
          shape.chunks};
}

inline CheckpointManifest test_manifest(std::int64_t generation) {
  CheckpointManifest manifest;
  manifest.generation = generation;
  manifest.created_by = "gptq-hpc 0.1.0";
  manifest.written = "2026-01-02T03:04:05Z";
  manifest.block = 3;
  manifest.group = 1;
  manifest.seconds = 0.1 + 0.2;
  manifest.attempts = 2;
  manifest.identity = {{"quantization.bits", "4"}, {"weights sha256", std::string(64, 'a')}};
  manifest.made_with = {{"ranks", "2"}, {"output.path", "/a \"quoted\"\nö"}};
  manifest.block_sha256 = {std::string(64, '1'), std::string(64, '2'), std::string(64, '3')};
  LayerStatistics layer;
  layer.module = "model.layers.0.mlp.up_proj";
  layer.bits = 4;
  layer.group_size = 128;
  layer.samples = 32;
  layer.tokens = 32768;
  layer.damp_percent = 0.05;
  layer.damping_steps = 1;
  layer.fallback = true;
  layer.fallback_reason = "not positive definite";
  layer.loss = 1.0 / 3;
  layer.relative_weight_error = 5e-324;
  layer.relative_output_error = 1.7976931348623157e308;
  layer.refinement_gain = 0.1;
  layer.raised_rows = 2;
  layer.seconds = 123456789.123456789;
  manifest.layers = {layer};
  return manifest;
}

/// A generation of two ranks (three and two samples), committed.
inline CheckpointManifest commit_generation(const CheckpointDirectory& directory, std::int64_t generation) {
  CheckpointManifest manifest = test_manifest(generation);
  RankShape first;
  first.generation = generation;
  first.chunks = {0, 2};
  first.layers = 2;
  RankShape second;
  second.generation = generation;
  second.rank = 1;
  second.first_sample = 3;
  second.lengths = {4, 1};
  second.chunks = {1};
  manifest.files = {write_rank(directory.path(), first), write_rank(directory.path(), second)};
  directory.commit(manifest);
  return manifest;
}

inline void flip(const std::filesystem::path& path, std::uint64_t offset, unsigned char mask = 1) {
  const File file = File::edit(path);
  unsigned char byte = 0;
  file.read_at(&byte, 1, offset);
  byte ^= mask;
  file.write_at(&byte, 1, offset);
}

/// What the call complains of by the given type of error; says so if it complains of nothing or in another
/// way.
template <typename Expected, typename Call>
std::string complaint(Call call) {
  try {
    call();
  } catch (const Expected& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("another exception: ") + error.what();
  }
  return "no complaint";
}

}  // namespace gptq::test
