#pragma once

#include <map>
#include <string>
#include <vector>

#include "model/fp8_weight.h"
#include "model/safetensors_reader.h"

namespace gptq {

/// A model's tensors as everything behind the files sees them. Weights in fp8 are ordinary ones of
/// config.json's dtype (fp8_weight.h); their scales, and what serves fp8 activations or caches only, are not
/// there. All others are as in the files, each in its own type.
class SourceTensors {
 public:
  /// files must outlive this. dtype: of decoded weights. Reads headers only; what is wrong is kept for
  /// mistakes().
  SourceTensors(const SafetensorsReader& files, const Fp8Config& fp8, DType dtype);

  /// Of each TensorInfo dtype, shape and bytes are those that read() gives; file and offset say where it is
  /// made from.
  const std::map<std::string, TensorInfo>& all() const { return tensors_; }
  bool contains(const std::string& name) const { return tensors_.contains(name); }
  const TensorInfo& info(const std::string& name) const;  ///< throws InputError with the nearest name
  /// Whether read() gives something else than the bytes of the files.
  bool is_decoded(const std::string& name) const { return scales_.contains(name); }
  const std::map<std::string, Fp8Scales>& decoded() const { return scales_; }
  std::uint64_t stored_bytes(const std::string& name) const;  ///< in the files, with its scales
  /// What is wrong with the fp8 weights, one text each.
  const std::vector<std::string>& mistakes() const { return mistakes_; }

  HostTensor read(const std::string& name) const;

 private:
  void add_fp8(const std::string& name, const Fp8Config& fp8, DType dtype);

  const SafetensorsReader& files_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, Fp8Scales> scales_;  ///< of decoded weights
  std::vector<std::string> mistakes_;
};

}  // namespace gptq
