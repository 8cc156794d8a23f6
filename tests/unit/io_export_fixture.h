#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/sha256.h"
#include "io/exporter.h"
#include "io/safetensors_writer.h"
#include "support/temp_directory.h"
#include "support/tiny_model.h"

namespace gptq::test {

/// A layer whose codes follow a simple pattern: what the exporter writes does not depend on how it was found.
inline QuantizedLayer pattern_layer(const std::string& module, const LinearShape& shape,
                                    const QuantizationSection& options) {
  QuantizedLayer layer;
  layer.module = module;
  layer.out_features = shape.out_features;
  layer.in_features = shape.in_features;
  layer.bits = options.bits;
  const std::int64_t size = options.group_size < 0 ? shape.in_features : options.group_size;
  layer.groups = (shape.in_features + size - 1) / size;
  const std::int64_t codes = options.trits ? 3 : std::int64_t{1} << options.bits;
  for (std::int64_t row = 0; row < shape.out_features; ++row) {
    for (std::int64_t col = 0; col < shape.in_features; ++col) {
      layer.codes.push_back(static_cast<std::uint8_t>((row * 7 + col * 3) % codes));
    }
    for (std::int64_t group = 0; group < layer.groups; ++group) {
      layer.scales.push_back(to_f16(0.01f * static_cast<float>(1 + (row + group) % 5)));
      const std::int64_t zero = options.sym ? codes / 2 : 1 + (row + group) % (codes - 1);
      layer.zeros.push_back(static_cast<std::uint8_t>(zero));
    }
  }
  for (std::int64_t col = 0; col < shape.in_features; ++col) {
    const std::int64_t place = options.desc_act ? shape.in_features - 1 - col : col;
    layer.group_of.push_back(static_cast<std::int32_t>(place / size));
  }
  return layer;
}

/// A tiny source model and an output directory.
class ExportTest : public ::testing::Test {
 protected:
  ExportTest() {
    job_.model.path = (root_ / "source").string();
    job_.output.path = (root_ / "output").string();
    job_.quantization.group_size = 32;
  }

  void make_source(const TinyModelOptions& options = {}) { write_tiny_model(job_.model.path, options); }

  static std::vector<QuantizedLayer> pattern_layers(const ModelWeights& model, const Recipe& recipe,
                                                    std::int64_t block) {
    std::vector<QuantizedLayer> layers;
    for (const LinearShape& shape : model.layout(block).layers()) {
      const std::string module = block_prefix(model.architecture(), block) + shape.name;
      if (recipe.selects(module)) layers.push_back(pattern_layer(module, shape, recipe.section_of(module)));
    }
    return layers;
  }

  /// Blocks [first, end); end < 0: all that are left.
  static void write_blocks(Exporter& exporter, const ModelWeights& model, const Recipe& recipe,
                           std::int64_t first = 0, std::int64_t end = -1) {
    if (end < 0) end = model.config().num_hidden_layers;
    for (std::int64_t block = first; block < end; ++block) {
      exporter.write_block(block, model.load_block(block), pattern_layers(model, recipe, block));
    }
  }

  void export_all(const std::string& fingerprint = "fingerprint") {
    const ModelWeights model(job_.model.path);
    const Recipe recipe(job_.quantization);
    Exporter exporter(job_, model, recipe, fingerprint);
    write_blocks(exporter, model, recipe);
    const LinearShape head = head_shape(model.architecture(), model.config());
    if (recipe.quantizes_head())
      exporter.write_head(pattern_layer(head.name, head, recipe.section_of(head.name)));
    exporter.finish();
  }

  /// As if the job had been stopped after so many blocks, a checkpoint counting on them; returns their
  /// hashes.
  std::vector<std::string> export_until(std::int64_t blocks) {
    const ModelWeights model(job_.model.path);
    const Recipe recipe(job_.quantization);
    Exporter exporter(job_, model, recipe, "fingerprint");
    exporter.keep_partial_files();
    write_blocks(exporter, model, recipe, 0, blocks);
    exporter.sync();
    return exporter.block_sha256();
  }

  void resume(const std::vector<std::string>& finished) {
    const ModelWeights model(job_.model.path);
    const Recipe recipe(job_.quantization);
    Exporter exporter(job_, model, recipe, "fingerprint", finished);
    write_blocks(exporter, model, recipe, static_cast<std::int64_t>(finished.size()));
    exporter.finish();
  }

  /// What damage_in_finished_blocks says, or "none".
  std::string damage(const std::vector<std::string>& finished, BlockShare share = {}) const {
    const ModelWeights model(job_.model.path);
    return damage_in_finished_blocks(job_, model, Recipe(job_.quantization), finished, share)
        .value_or("none");
  }

  /// Every file of the directory with its SHA-256; locks and folders do not count.
  static std::map<std::string, std::string> content(const std::filesystem::path& directory) {
    std::map<std::string, std::string> hashes;
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      if (entry.is_regular_file()) hashes[entry.path().filename().string()] = sha256_of_file(entry.path());
    }
    return hashes;
  }

  std::filesystem::path output(const std::string& name = "") const {
    return std::filesystem::path(job_.output.path) / name;
  }

  /// Writes a one-file output's weights anew with some tensors replaced, added, or (no elements) dropped.
  void rewrite(const std::map<std::string, HostTensor*>& changes) {
    const SafetensorsReader reader(job_.output.path);
    std::vector<std::pair<std::string, TensorInfo>> infos;
    for (const auto& [name, info] : reader.tensors()) {
      if (!changes.contains(name)) infos.emplace_back(name, info);
    }
    for (const auto& [name, tensor] : changes) {
      if (tensor != nullptr) infos.push_back({name, {tensor->dtype, tensor->shape, "", 0, 0}});
    }
    SafetensorsWriter writer(output("model.safetensors"), infos);
    for (const auto& [name, info] : infos) {
      if (changes.contains(name)) {
        writer.write(name, *changes.at(name));
      } else {
        writer.copy(name, reader);
      }
    }
    writer.finish();
  }

  TempDirectory root_;
  JobConfig job_;
};

}  // namespace gptq::test
