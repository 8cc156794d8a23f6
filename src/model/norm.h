#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "backend/device_matrix.h"
#include "model/architectures.h"

namespace gptq {

/// A norm of its family's kind, with its weights as floats in the backend's memory. Immutable.
class Norm {
 public:
  /// features: of a run that is normalised at once. weight: (features), the same for all runs, or more, one
  /// behind the other; bias: of its size, or null.
  Norm(Backend& backend, NormKind kind, const ModelConfig& config, float weight_offset, std::int64_t features,
       const HostTensor& weight, const HostTensor* bias);

  /// Each run of x's columns; y may be x.
  void apply(Kernels& kernels, const Matrix& x, const Matrix& y) const;

 private:
  std::span<const float> bias() const { return bias_ ? bias_->floats() : std::span<const float>(); }

  NormKind kind_;
  float eps_, weight_offset_;
  std::int64_t features_;
  DeviceMatrix weight_;
  std::unique_ptr<DeviceMatrix> bias_;
};

}  // namespace gptq
