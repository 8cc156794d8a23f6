#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/tensor.h"
#include "kernels/cuda/cuda_context.h"
#include "kernels/kernels.h"

/// Private to kernels/cuda.
namespace gptq::cuda {

/// Weights in device memory, (out, stride) row-major in the compute type, stride = in rounded up to
/// kPadding and filled up with zeros. Written in the order of weights_stream(), perhaps by a thread of its
/// own; what uses them in the compute stream calls wait() first.
class CudaLinear final : public LinearWeights {
 public:
  static constexpr std::int64_t kPadding = 8;

  CudaLinear(CudaContext& context, std::int64_t out, std::int64_t in, std::span<const float> bias,
             DType compute);
  ~CudaLinear() override;
  CudaLinear(const CudaLinear&) = delete;
  CudaLinear& operator=(const CudaLinear&) = delete;

  std::int64_t in_features() const override { return in_; }
  std::int64_t out_features() const override { return out_; }
  DType compute() const { return compute_; }
  std::int64_t stride() const { return stride_; }
  void* weights() const { return weights_.data(); }
  /// The weights are dense and exactly those of a matrix of this type.
  bool holds(DType source) const { return exact_ && source == compute_ && stride_ == in_; }
  void set_exact() { exact_ = true; }                      ///< they were copied, not converted
  const float* bias() const { return bias_.as<float>(); }  ///< null: none

  /// Memory for the preparation, kept until wait(): work in weights_stream() may need it that long.
  std::byte* temporary(std::size_t bytes);
  /// The last of the preparation has been put into weights_stream().
  void prepared();
  /// Lets the compute stream wait for the weights. By the computing thread; the first time only it costs
  /// something.
  void wait() const;

 private:
  enum class State { preparing, prepared, usable };

  CudaContext& context_;
  std::int64_t out_, in_, stride_;
  DType compute_;
  bool exact_ = false;
  mutable State state_ = State::preparing;
  cudaEvent_t ready_ = nullptr;
  DeviceBuffer weights_, bias_;
  mutable std::vector<DeviceBuffer> temporaries_;
};

/// The downcast of our own weights; a contract violation if another backend made them.
const CudaLinear& cuda_linear(const LinearWeights& weights);

/// y = x·Wᵀ + b, or y += …; see Kernels::linear.
void apply_linear(CudaContext& context, const Matrix& x, const CudaLinear& weights, const Matrix& y,
                  bool accumulate);

}  // namespace gptq::cuda
