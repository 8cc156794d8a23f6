#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "io/safetensors_writer.h"
#include "kernels/kernels.h"
#include "model/safetensors_reader.h"
#include "support/places.h"
#include "support/reference_forward.h"
#include "support/temp_directory.h"

namespace gptq::test {

inline std::filesystem::path fixture_path(const std::string& name) {
  return fixtures() / name;
}

/// What transformers computed for a tiny random model (tests/fixtures/make_fixtures.py).
struct ExpectedLogits {
  Batch batch;
  std::vector<std::int32_t> ids;
  reference::Array logits{0, 0};            // (tokens, vocab)
  reference::Array quantized_logits{0, 0};  // with the blocks' linears in 4 bits; none of the first families

  explicit ExpectedLogits(const std::string& name) {
    const TempDirectory folder;  // the reader wants its own file name
    std::filesystem::copy_file(fixture_path(name) / "expected.safetensors", folder / "model.safetensors");
    const SafetensorsReader expected(folder.path());
    ids = integers(expected.read("ids"));
    for (const std::int32_t length : integers(expected.read("lengths"))) {
      batch.offsets.push_back(batch.offsets.back() + length);
    }
    logits = reference::from_matrix(expected.read("logits").matrix());
    if (expected.contains("quantized_logits"))
      quantized_logits = reference::from_matrix(expected.read("quantized_logits").matrix());
  }

 private:
  static std::vector<std::int32_t> integers(const HostTensor& tensor) {
    const auto* const values = reinterpret_cast<const std::int32_t*>(tensor.storage.data());
    return {values, values + tensor.elements()};
  }
};

/// A fixture's configuration and weights in memory, to be changed and written elsewhere.
struct EditableModel {
  nlohmann::json config;
  std::map<std::string, HostTensor> tensors;

  explicit EditableModel(const std::string& fixture) {
    std::ifstream(fixture_path(fixture) / "config.json") >> config;
    const SafetensorsReader reader(fixture_path(fixture));
    for (const auto& [name, info] : reader.tensors()) tensors.emplace(name, reader.read(name));
  }

  float& value(const std::string& name, std::int64_t index) {
    return reinterpret_cast<float*>(tensors.at(name).storage.data())[index];
  }

  void write(const std::filesystem::path& directory) const {
    std::ofstream(directory / "config.json") << config.dump(2);
    std::vector<std::pair<std::string, TensorInfo>> layout;
    for (const auto& [name, tensor] : tensors) {
      TensorInfo info;
      info.dtype = tensor.dtype;
      info.shape = tensor.shape;
      layout.emplace_back(name, info);
    }
    SafetensorsWriter writer(directory / "model.safetensors", layout);
    for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
    writer.finish();
  }
};

}  // namespace gptq::test
