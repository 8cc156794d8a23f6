#include "model/packed_linear.h"

#include <fmt/ranges.h>

#include "base/error.h"
#include "quant/packing.h"
#include "quant/quantized_layer.h"

namespace gptq {
namespace {

using Shape = std::vector<std::int64_t>;

struct Expected {
  const char* suffix;
  Shape shape;
  bool floating;
  bool optional;
};

std::vector<Expected> expected_tensors(std::int64_t out, std::int64_t in, const QuantizedForm& form) {
  const std::int64_t width = form.group_size < 1 ? in : form.group_size;
  const std::int64_t groups = (in + width - 1) / width;
  return {{".qweight", {packed_words(in, form.bits), out}, false, false},
          {".qzeros", {groups, packed_words(out, form.bits)}, false, false},
          {".scales", {groups, out}, true, false},
          {".g_idx", {in}, false, true}};
}

bool type_fits(DType dtype, bool floating) {
  return floating ? dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::f32 : dtype == DType::i32;
}

HostTensor consecutive_groups(std::int64_t in, std::int64_t group_size) {
  HostTensor result = make_tensor(DType::i32, {in});
  auto* const groups = reinterpret_cast<std::int32_t*>(result.storage.data());
  for (std::int64_t c = 0; c < in; ++c)
    groups[c] = group_size < 1 ? 0 : static_cast<std::int32_t>(c / group_size);
  return result;
}

void check_groups(const HostTensor& g_idx, std::int64_t groups, const std::string& module) {
  const auto* const values = reinterpret_cast<const std::int32_t*>(g_idx.storage.data());
  for (std::int64_t c = 0; c < g_idx.elements(); ++c) {
    if (values[c] < 0 || values[c] >= groups) {
      throw InputError("{}.g_idx[{}] is {}, but there are {} groups: the file is damaged", module, c,
                       values[c], groups);
    }
  }
}

}  // namespace

bool is_packed_linear(const SafetensorsReader& reader, const std::string& module) {
  return reader.contains(module + ".qweight");
}

std::vector<std::string> packed_linear_mistakes(const SafetensorsReader& reader, const std::string& module,
                                                const LinearShape& shape,
                                                const ModelConfig::Quantized& quantized) {
  if (!quantized.present)
    return {fmt::format("{} is quantized, but config.json has no quantization_config", module)};
  std::vector<std::string> mistakes;
  for (const Expected& expected :
       expected_tensors(shape.out_features, shape.in_features, quantized.form_of(module))) {
    const std::string name = module + expected.suffix;
    if (!reader.contains(name)) {
      if (!expected.optional) mistakes.push_back(name + " is missing");
      continue;
    }
    const TensorInfo& info = reader.info(name);
    if (info.shape != expected.shape || !type_fits(info.dtype, expected.floating)) {
      mistakes.push_back(fmt::format("{} in {} is {} ({}), but config.json implies {} ({})", name, info.file,
                                     name_of(info.dtype), fmt::join(info.shape, ", "),
                                     expected.floating ? "F16" : "I32", fmt::join(expected.shape, ", ")));
    }
  }
  return mistakes;
}

HostTensor load_packed_linear(const SafetensorsReader& reader, const std::string& module,
                              const ModelConfig::Quantized& quantized) {
  const QuantizedForm form = quantized.form_of(module);
  const Shape scales_shape = reader.info(module + ".scales").shape;
  const bool has_g_idx = reader.contains(module + ".g_idx");
  const Shape weight_shape = reader.info(module + ".qweight").shape;
  if (scales_shape.size() != 2 || weight_shape.size() != 2) {
    throw InputError("{}: qweight and scales must be matrices", module);
  }
  const std::int64_t in =
      has_g_idx ? reader.info(module + ".g_idx").shape.at(0) : weight_shape[0] * 32 / form.bits;
  const LinearShape shape{module, scales_shape[1], in, false};
  const std::vector<std::string> mistakes = packed_linear_mistakes(reader, module, shape, quantized);
  if (!mistakes.empty()) throw InputError("{}", fmt::join(mistakes, "; "));

  PackedLayer packed{reader.read(module + ".qweight"), reader.read(module + ".qzeros"),
                     convert(reader.read(module + ".scales"), DType::f16),
                     has_g_idx ? reader.read(module + ".g_idx") : consecutive_groups(in, form.group_size)};
  check_groups(packed.g_idx, scales_shape[0], module);
  return dequantize(weights_of(unpack(packed, form.bits, quantized.format)));
}

}  // namespace gptq
