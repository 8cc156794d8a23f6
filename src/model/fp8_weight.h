#pragma once

#include <string>
#include <vector>

#include "model/fp8_config.h"
#include "model/safetensors_reader.h"

namespace gptq {

/// Where the scales of an fp8 weight lie. Element (r, c) has the scale (r / block.rows, c / block.cols); the
/// last block of a side may be short.
struct Fp8Scales {
  std::string name;  ///< the tensor of scales
  Fp8Block block;    ///< may pass the weight's extents
};

/// The scales of an F8_E4M3 tensor, by name (NAME_scale_inv or NAME_scale, both factors of the codes) and
/// shape; reads headers only. Throws InputError where they are missing, of no known shape, or might mean two
/// things.
Fp8Scales find_fp8_scales(const SafetensorsReader& files, const std::string& name, const Fp8Config& config);

/// The weight as an ordinary one: code · scale, the f32 product rounded once to `dtype` (f32, f16 or bf16). A
/// code that is no number stays NaN. Needs no memory beside the result's and one row's. Throws InputError for
/// a scale that is NaN or infinite.
HostTensor read_fp8_weight(const SafetensorsReader& files, const std::string& name, const Fp8Scales& scales,
                           DType dtype);

}  // namespace gptq
