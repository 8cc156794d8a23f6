#include "model/source_tensors.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "base/error.h"

namespace gptq {
namespace {

/// Scales of fp8 activations and of an fp8 cache of keys and values: an ordinary model has neither.
constexpr std::array<std::string_view, 8> kOfActivations = {
    ".input_scale", ".input_scale_ub", ".activation_scale", ".output_scale",
    ".q_scale",     ".k_scale",        ".v_scale",          ".kv_scale"};

bool is_of_activations(const std::string& name) {
  return std::any_of(kOfActivations.begin(), kOfActivations.end(),
                     [&](std::string_view suffix) { return name.ends_with(suffix); });
}

}  // namespace

SourceTensors::SourceTensors(const SafetensorsReader& files, const Fp8Config& fp8, DType dtype)
    : files_(files), tensors_(files.tensors()) {
  for (const auto& [name, info] : files.tensors()) {
    if (info.dtype == DType::f8_e4m3) add_fp8(name, fp8, dtype);
  }
  for (const auto& [name, scales] : scales_) tensors_.erase(scales.name);
  if (fp8.present)
    std::erase_if(tensors_, [](const auto& tensor) { return is_of_activations(tensor.first); });
}

void SourceTensors::add_fp8(const std::string& name, const Fp8Config& fp8, DType dtype) {
  try {
    scales_.emplace(name, find_fp8_scales(files_, name, fp8));
  } catch (const InputError& error) {
    mistakes_.push_back(error.what());
    return;
  }
  TensorInfo& info = tensors_.at(name);
  info.dtype = dtype;
  info.bytes *= size_of(dtype);
}

const TensorInfo& SourceTensors::info(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? files_.info(name) : found->second;
}

std::uint64_t SourceTensors::stored_bytes(const std::string& name) const {
  const auto scales = scales_.find(name);
  const std::uint64_t bytes = files_.info(name).bytes;
  return scales == scales_.end() ? bytes : bytes + files_.info(scales->second.name).bytes;
}

HostTensor SourceTensors::read(const std::string& name) const {
  const auto scales = scales_.find(name);
  return scales == scales_.end() ? files_.read(name)
                                 : read_fp8_weight(files_, name, scales->second, info(name).dtype);
}

}  // namespace gptq
