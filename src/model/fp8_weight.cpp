#include "model/fp8_weight.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "base/fp8.h"

namespace gptq {
namespace {

using Shape = std::vector<std::int64_t>;

constexpr std::array<float, 256> kValues = [] {
  std::array<float, 256> values{};
  for (int code = 0; code < 256; ++code)
    values[static_cast<std::size_t>(code)] = to_float(f8_e4m3{static_cast<std::uint8_t>(code)});
  return values;
}();

std::int64_t blocks_in(std::int64_t extent, std::int64_t block) {
  return (extent + block - 1) / block;
}

bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

std::string name_of_scales(const SafetensorsReader& files, const std::string& weight) {
  const std::string inverse = weight + "_scale_inv", plain = weight + "_scale";
  const bool has_inverse = files.contains(inverse), has_plain = files.contains(plain);
  if (has_inverse && has_plain)
    throw InputError("{} has two tensors of scales, {} and {}", weight, inverse, plain);
  if (!has_inverse && !has_plain) {
    throw InputError("{} in {} is F8_E4M3, but neither {} nor {} is there", weight, files.info(weight).file,
                     inverse, plain);
  }
  return has_inverse ? inverse : plain;
}

/// Do scales of this shape fit a weight (rows, cols) in blocks of `size`? One scale a weight may be a scalar,
/// one a row a vector.
bool fits(const Shape& scales, std::int64_t rows, std::int64_t cols, Fp8Block size) {
  const std::int64_t down = blocks_in(rows, size.rows), across = blocks_in(cols, size.cols);
  const bool scalar = down == 1 && across == 1 && scales.empty();
  const bool vector = across == 1 && scales == Shape{down};
  return scalar || vector || scales == Shape{down, across};
}

/// Have elements the same scales in blocks of either size?
bool alike(Fp8Block a, Fp8Block b, std::int64_t rows, std::int64_t cols) {
  return std::min(a.rows, rows) == std::min(b.rows, rows) && std::min(a.cols, cols) == std::min(b.cols, cols);
}

template <typename To, typename Round>
void decode_rows(HostTensor& tensor, const Fp8Block& block, const std::vector<float>& scales, Round round) {
  const std::int64_t rows = tensor.shape[0], cols = tensor.shape[1];
  const std::int64_t across = blocks_in(cols, block.cols);
  To* const values = reinterpret_cast<To*>(tensor.storage.data());
  // Codes fill the end of the tensor's memory: a row's values end where the next row's codes begin, or
  // before.
  const auto* const codes =
      reinterpret_cast<const std::uint8_t*>(tensor.storage.data() + tensor.storage.size()) - rows * cols;
  std::vector<std::uint8_t> row(static_cast<std::size_t>(cols));
  for (std::int64_t r = 0; r < rows; ++r) {
    std::copy_n(codes + r * cols, cols, row.data());
    const float* const scale = scales.data() + r / block.rows * across;
    To* const out = values + r * cols;
    for (std::int64_t b = 0; b < across; ++b) {
      const float factor = scale[b];
      const std::int64_t end = std::min(cols, (b + 1) * block.cols);
      for (std::int64_t c = b * block.cols; c < end; ++c)
        out[c] = round(kValues[row[static_cast<std::size_t>(c)]] * factor);
    }
  }
}

std::vector<float> read_scales(const SafetensorsReader& files, const std::string& name) {
  const HostTensor tensor = convert(files.read(name), DType::f32);
  const auto* const first = reinterpret_cast<const float*>(tensor.storage.data());
  std::vector<float> scales(first, first + tensor.elements());
  if (std::all_of(scales.begin(), scales.end(), [](float v) { return std::isfinite(v); })) return scales;
  throw InputError("{} ({}) of {} holds NaN or infinity: the model file is damaged; fetch it again", name,
                   files.info(name).file, files.directory().string());
}

}  // namespace

Fp8Scales find_fp8_scales(const SafetensorsReader& files, const std::string& name, const Fp8Config& config) {
  const TensorInfo& weight = files.info(name);
  if (!config.present) {
    throw InputError(
        "{} in {} is F8_E4M3, but config.json has no quantization_config that says how fp8 weights are "
        "scaled "
        "(quant_method {})",
        name, weight.file, fp8_methods());
  }
  if (weight.shape.size() != 2) {
    throw InputError(
        "{} in {} is F8_E4M3 of shape ({}); only matrices are known in fp8: save fused experts one by one",
        name, weight.file, fmt::join(weight.shape, ", "));
  }
  Fp8Scales result{name_of_scales(files, name), {}};
  const TensorInfo& scales = files.info(result.name);
  if (!is_float(scales.dtype)) {
    throw InputError("{} in {} has type {}; F32, F16 or BF16 is needed", result.name, scales.file,
                     name_of(scales.dtype));
  }
  const std::int64_t rows = weight.shape[0], cols = weight.shape[1];
  std::vector<Fp8Block> sizes{{std::max<std::int64_t>(1, rows), std::max<std::int64_t>(1, cols)},
                              {1, std::max<std::int64_t>(1, cols)}};
  sizes.insert(sizes.end(), config.blocks.begin(), config.blocks.end());
  std::vector<std::string> known;
  for (const Fp8Block& size : sizes) {
    known.push_back(fmt::format("({}, {})", blocks_in(rows, size.rows), blocks_in(cols, size.cols)));
    if (!fits(scales.shape, rows, cols, size)) continue;
    if (result.block.rows == 0) result.block = size;
    if (alike(size, result.block, rows, cols)) continue;
    throw InputError("{} in {} may belong to blocks of {} x {} or of {} x {}: config.json lists both",
                     result.name, scales.file, result.block.rows, result.block.cols, size.rows, size.cols);
  }
  if (result.block.rows == 0) {
    throw InputError("{} in {} has shape ({}), but for {} ({}, {}) config.json implies {}", result.name,
                     scales.file, fmt::join(scales.shape, ", "), name, rows, cols, fmt::join(known, " or "));
  }
  return result;
}

HostTensor read_fp8_weight(const SafetensorsReader& files, const std::string& name, const Fp8Scales& scales,
                           DType dtype) {
  const TensorInfo& info = files.info(name);
  GPTQ_EXPECT(info.dtype == DType::f8_e4m3 && info.shape.size() == 2);
  const std::vector<float> factors = read_scales(files, scales.name);
  HostTensor tensor = make_tensor(dtype, info.shape);
  files.read_into(name, tensor.storage.data() + tensor.storage.size() - info.bytes);
  switch (dtype) {
    case DType::f32:
      decode_rows<float>(tensor, scales.block, factors, [](float v) { return v; });
      break;
    case DType::bf16:
      decode_rows<bf16>(tensor, scales.block, factors, to_bf16);
      break;
    case DType::f16:
      decode_rows<f16>(tensor, scales.block, factors, to_f16);
      break;
    default:
      contract_violation("fp8 weights become a floating type", __FILE__, __LINE__);
  }
  return tensor;
}

}  // namespace gptq
