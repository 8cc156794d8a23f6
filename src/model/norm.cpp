#include "model/norm.h"

#include "base/error.h"

namespace gptq {

Norm::Norm(Backend& backend, NormKind kind, const ModelConfig& config, float weight_offset,
           std::int64_t features, const HostTensor& weight, const HostTensor* bias)
    : kind_(kind),
      eps_(config.norm_eps),
      weight_offset_(weight_offset),
      features_(features),
      weight_(backend, convert(weight, DType::f32)) {
  if (bias != nullptr) bias_ = std::make_unique<DeviceMatrix>(backend, convert(*bias, DType::f32));
}

void Norm::apply(Kernels& kernels, const Matrix& x, const Matrix& y) const {
  if (kind_ == NormKind::layer) return kernels.layer_norm(x, features_, weight_.floats(), bias(), eps_, y);
  if (x.cols == features_) return kernels.rms_norm(x, weight_.floats(), eps_, weight_offset_, y);
  GPTQ_EXPECT(x.data == y.data);
  kernels.head_rms_norm(x, weight_.floats(), eps_, weight_offset_);
}

}  // namespace gptq
