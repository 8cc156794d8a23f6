// How far two quantized models of the same source and recipe agree: the share of equal codes and scales,
// layer by layer.
//
//   compare_models --json out.json --require-codes 0.999 DIRECTORY OTHER_DIRECTORY
//
// Exit codes: 0, 1 where fewer codes agree than --require-codes says or tensors that are not quantized
// differ, 3 where the two are not comparable.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "model/model_config.h"
#include "model/safetensors_reader.h"
#include "quant/packing.h"

namespace {

using namespace gptq;

struct CommandLine {
  std::string first, second, json;
  double require_codes = 0;
};

/// Equal ones of a layer's codes and scales.
struct Agreement {
  std::string module;
  std::int64_t codes = 0, equal_codes = 0, scales = 0, equal_scales = 0;

  double code_share() const {
    return codes > 0 ? static_cast<double>(equal_codes) / static_cast<double>(codes) : 1;
  }
  double scale_share() const {
    return scales > 0 ? static_cast<double>(equal_scales) / static_cast<double>(scales) : 1;
  }
  void add(const Agreement& other) {
    codes += other.codes;
    equal_codes += other.equal_codes;
    scales += other.scales;
    equal_scales += other.equal_scales;
  }
};

struct Comparison {
  std::vector<Agreement> layers;
  Agreement total;
  std::vector<std::string> other_differences;  ///< tensors that are not quantized, and differ
};

QuantizedLayer read_layer(const SafetensorsReader& reader, const std::string& module,
                          const ModelConfig::Quantized& quantized) {
  const PackedLayer packed{reader.read(module + ".qweight"), reader.read(module + ".qzeros"),
                           reader.read(module + ".scales"), reader.read(module + ".g_idx")};
  return unpack(packed, quantized.form_of(module).bits, quantized.format);
}

template <typename Values>
std::int64_t count_equal(const Values& a, const Values& b, const std::string& module) {
  if (a.size() != b.size())
    throw InputError("{} has {} values in one model, {} in the other", module, a.size(), b.size());
  std::int64_t equal = 0;
  for (std::size_t i = 0; i < a.size(); ++i) equal += std::memcmp(&a[i], &b[i], sizeof(a[i])) == 0 ? 1 : 0;
  return equal;
}

Agreement compare_layer(const QuantizedLayer& a, const QuantizedLayer& b, const std::string& module) {
  Agreement agreement;
  agreement.module = module;
  agreement.codes = static_cast<std::int64_t>(a.codes.size());
  agreement.equal_codes = count_equal(a.codes, b.codes, module);
  agreement.scales = static_cast<std::int64_t>(a.scales.size());
  agreement.equal_scales = count_equal(a.scales, b.scales, module);
  return agreement;
}

bool same_tensor(const HostTensor& a, const HostTensor& b) {
  return a.dtype == b.dtype && a.shape == b.shape && a.storage.size() == b.storage.size() &&
         std::memcmp(a.storage.data(), b.storage.data(), a.storage.size()) == 0;
}

void require_same_form(const QuantizedForm& a, const QuantizedForm& b, const std::string& module) {
  if (a.bits == b.bits && a.group_size == b.group_size) return;
  throw InputError("{} has {} and {} bits, groups of {} and {}", module, a.bits, b.bits, a.group_size,
                   b.group_size);
}

Comparison compare(const CommandLine& line) {
  const ModelConfig::Quantized first = read_model_config(line.first).quantized;
  const ModelConfig::Quantized second = read_model_config(line.second).quantized;
  if (!first.present || !second.present) throw InputError("both models must be GPTQ-quantized ones");
  const SafetensorsReader a(line.first), b(line.second);
  Comparison result;
  for (const auto& [name, info] : a.tensors()) {
    const std::size_t dot = name.rfind('.');
    const std::string module = name.substr(0, dot), kind = name.substr(dot + 1);
    if (kind == "qweight") {
      require_same_form(first.form_of(module), second.form_of(module), module);
      result.layers.push_back(
          compare_layer(read_layer(a, module, first), read_layer(b, module, second), module));
      result.total.add(result.layers.back());
    } else if (!a.contains(module + ".qweight") && !same_tensor(a.read(name), b.read(name))) {
      result.other_differences.push_back(name);
    }
  }
  if (result.layers.empty()) throw InputError("{} holds no quantized layer", line.first);
  return result;
}

const Agreement& worst_of(const Comparison& comparison) {
  return *std::min_element(
      comparison.layers.begin(), comparison.layers.end(),
      [](const Agreement& a, const Agreement& b) { return a.code_share() < b.code_share(); });
}

std::string json_of(const Comparison& comparison) {
  nlohmann::ordered_json json;
  json["layers"] = comparison.layers.size();
  json["codes"] = comparison.total.codes;
  json["equal_codes"] = comparison.total.code_share();
  json["equal_scales"] = comparison.total.scale_share();
  json["worst_layer"] = {{"module", worst_of(comparison).module},
                         {"equal_codes", worst_of(comparison).code_share()}};
  json["other_differences"] = comparison.other_differences;
  json["modules"] = nlohmann::ordered_json::object();
  for (const Agreement& layer : comparison.layers)
    json["modules"][layer.module] = {{"equal_codes", layer.code_share()},
                                     {"equal_scales", layer.scale_share()}};
  return json.dump(2) + "\n";
}

int run(const CommandLine& line) {
  const Comparison comparison = compare(line);
  const Agreement& worst = worst_of(comparison);
  std::printf("%zu layers: %.6f of the codes and %.6f of the scales are equal; least in %s (%.6f)\n",
              comparison.layers.size(), comparison.total.code_share(), comparison.total.scale_share(),
              worst.module.c_str(), worst.code_share());
  for (const std::string& name : comparison.other_differences) std::printf("%s differs\n", name.c_str());
  if (!line.json.empty()) write_file(line.json, json_of(comparison));
  return comparison.total.code_share() >= line.require_codes && comparison.other_differences.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Compares two quantized models of the same source and recipe");
  CommandLine line;
  app.add_option("first", line.first, "Directory of a model")->required();
  app.add_option("second", line.second, "Directory of the other")->required();
  app.add_option("--json", line.json, "Also write this file");
  app.add_option("--require-codes", line.require_codes, "Least share of equal codes")
      ->check(CLI::Range(0.0, 1.0));
  CLI11_PARSE(app, argc, argv);
  try {
    return run(line);
  } catch (const gptq::Error& error) {
    std::fprintf(stderr, "compare_models: %s\n", error.what());
    return static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "compare_models: %s\n", error.what());
    return 1;
  }
}
