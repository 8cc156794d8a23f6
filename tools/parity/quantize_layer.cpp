// One linear layer, quantized by this program's own kernels on the CPU from a file of weights and one of
// inputs, for tools/parity/gptqmodel_parity.py to compare with what another system makes of the same numbers.
//
//   quantize_layer --weight weight.f32 --input input.f32 --columns 512 --json out.json bits=3 sym=false
//
// The files are row-major little-endian floats: weight (out_features, columns), input (tokens, columns). What
// follows are keys of the job's section `quantization` for a single layer.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "backend/backend.h"
#include "base/error.h"
#include "base/file.h"
#include "config/module_rules.h"
#include "quant/factor.h"
#include "quant/packing.h"
#include "quant/recipe.h"
#include "quant/tensor_scale.h"

namespace {

using namespace gptq;

struct CommandLine {
  std::string weight, input, json;
  std::int64_t columns = 0;
  std::vector<std::string> settings;  ///< key=value
};

HostTensor read_matrix(const std::string& path, std::int64_t columns) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw IoError("cannot read {}", path);
  const auto bytes = static_cast<std::int64_t>(file.tellg());
  const std::int64_t row = columns * static_cast<std::int64_t>(sizeof(float));
  if (bytes == 0 || bytes % row != 0) throw InputError("{} holds no rows of {} floats", path, columns);
  HostTensor matrix = make_tensor(DType::f32, {bytes / row, columns});
  file.seekg(0);
  if (!file.read(reinterpret_cast<char*>(matrix.storage.data()), bytes))
    throw IoError("cannot read {}", path);
  return matrix;
}

QuantizationSection section_of(const std::vector<std::string>& texts) {
  Settings settings;
  for (const std::string& text : texts) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos) throw UsageError("'{}' must be key=value", text);
    settings.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
  return with_settings(QuantizationSection(), settings);
}

HessianSum sum_of(Backend& backend, const HostTensor& input) {
  const Matrix x = input.matrix();
  std::vector<float> maximum(static_cast<std::size_t>(x.cols));
  backend.kernels().column_max(x, maximum.data());
  HessianSum sum = make_hessian_sum(backend, maximum, x.rows);
  accumulate_hessian(backend.kernels(), x, sum.exponents, sum.values());
  return sum;
}

QuantizedRows solve(Backend& backend, const HostTensor& weight, const StageFactor& factor,
                    const QuantizationSection& section) {
  const SolveOptions options = solve_options(section);
  RowsToSolve part{.weight = weight.matrix()};
  GivenScales given;
  if (!section.per_channel) {
    const TensorScale scale = find_tensor_scale(part.weight, factor.columns.weight, options);
    given = repeated(scale, part.weight.rows);
    part.scales = given.scales.data();
    part.zeros = given.zeros.data();
  }
  const std::vector<RowsToSolve> parts{part};
  return backend.kernels()
      .solve_rows(parts, factor.columns, factor.factor(), factor.damping, options)
      .front();
}

std::vector<std::int32_t> words_of(const HostTensor& tensor) {
  const auto* words = reinterpret_cast<const std::int32_t*>(tensor.storage.data());
  return {words, words + tensor.elements()};
}

/// The layer in every format that has a form for it, as the output's files would hold it.
nlohmann::ordered_json packed_forms(const QuantizedLayer& layer) {
  nlohmann::ordered_json forms = nlohmann::ordered_json::object();
  for (const auto format : {CheckpointFormat::gptq, CheckpointFormat::gptq_v2, CheckpointFormat::gptq_p}) {
    if (!can_hold(format, layer.bits)) continue;
    const PackedLayer packed = pack(layer, format);
    forms[std::string(name_of(format))] = {{"qweight", words_of(packed.qweight)},
                                           {"qzeros", words_of(packed.qzeros)}};
  }
  return forms;
}

void run(const CommandLine& line) {
  const QuantizationSection section = section_of(line.settings);
  const auto backend = make_backend({"cpu", 1});
  const HostTensor weight = read_matrix(line.weight, line.columns);
  const HostTensor input = read_matrix(line.input, line.columns);
  const StageFactor factor = factor_hessian(*backend, sum_of(*backend, input), section);
  const QuantizedRows rows = solve(*backend, weight, factor, section);
  QuantizedLayer layer;
  layer.out_features = weight.shape[0];
  layer.in_features = line.columns;
  layer.groups = factor.columns.groups;
  layer.bits = section.bits;
  layer.codes = rows.codes;
  layer.scales = rows.scales;
  layer.zeros = rows.zeros;
  layer.group_of = factor.columns.group_of;
  std::vector<float> scales;
  for (const f16 scale : rows.scales) scales.push_back(to_float(scale));
  const nlohmann::ordered_json json = {{"codes", layer.codes},
                                       {"scales", scales},
                                       {"zeros", layer.zeros},
                                       {"g_idx", layer.group_of},
                                       {"damp_percent", factor.damp_percent},
                                       {"fallback", factor.fallback},
                                       {"packed", packed_forms(layer)}};
  write_file(line.json, json.dump() + "\n");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Quantizes one layer, for comparisons with other systems");
  CommandLine line;
  app.add_option("--weight", line.weight, "Floats (out_features, columns)")->required();
  app.add_option("--input", line.input, "Floats (tokens, columns)")->required();
  app.add_option("--columns", line.columns, "in_features")->required()->check(CLI::PositiveNumber);
  app.add_option("--json", line.json, "File to write")->required();
  app.add_option("settings", line.settings, "Keys of the section `quantization`: bits=3 sym=false");
  CLI11_PARSE(app, argc, argv);
  try {
    run(line);
    return 0;
  } catch (const gptq::Error& error) {
    std::fprintf(stderr, "quantize_layer: %s\n", error.what());
    return static_cast<int>(error.exit_code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "quantize_layer: %s\n", error.what());
    return 1;
  }
}
