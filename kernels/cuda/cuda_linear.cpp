#include "kernels/cuda/cuda_linear.h"

#include "base/error.h"
#include "kernels/cuda/cuda_check.h"

namespace gptq::cuda {

CudaLinear::CudaLinear(CudaContext& context, std::int64_t out, std::int64_t in, std::span<const float> bias,
                       DType compute)
    : context_(context),
      out_(out),
      in_(in),
      stride_((in + kPadding - 1) / kPadding * kPadding),
      compute_(compute) {
  GPTQ_EXPECT(compute == DType::f32 || compute == DType::bf16);
  GPTQ_EXPECT(out > 0 && in > 0);
  GPTQ_EXPECT(bias.empty() || static_cast<std::int64_t>(bias.size()) == out);
  weights_ = context.allocate_on(context.weights_stream(),
                                 static_cast<std::size_t>(out * stride_) * size_of(compute));
  if (!bias.empty()) {
    bias_ = context.allocate_on(context.weights_stream(), bias.size_bytes());
    context.stage_weights(bias_.data(), bias.data(), bias.size_bytes());
  }
  // Last: the destructor does not run for an object whose constructor threw.
  GPTQ_CUDA(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming));
}

// The buffers go back in the order of the compute stream, which must not overtake their preparation. A
// failure here means that the device is lost: that is told where it was noticed, not once more a layer.
CudaLinear::~CudaLinear() {
  if (state_ == State::preparing) static_cast<void>(cudaStreamSynchronize(context_.weights_stream()));
  if (state_ == State::prepared) static_cast<void>(cudaStreamWaitEvent(context_.stream(), ready_, 0));
  static_cast<void>(cudaEventDestroy(ready_));
}

std::byte* CudaLinear::temporary(std::size_t bytes) {
  temporaries_.push_back(context_.allocate_on(context_.weights_stream(), bytes));
  return temporaries_.back().data();
}

void CudaLinear::prepared() {
  GPTQ_CUDA(cudaEventRecord(ready_, context_.weights_stream()));
  state_ = State::prepared;
}

void CudaLinear::wait() const {
  if (state_ == State::usable) return;
  GPTQ_EXPECT(state_ == State::prepared);
  GPTQ_CUDA(cudaStreamWaitEvent(context_.stream(), ready_, 0));
  state_ = State::usable;
  temporaries_.clear();
}

const CudaLinear& cuda_linear(const LinearWeights& weights) {
  const auto* const own = dynamic_cast<const CudaLinear*>(&weights);
  GPTQ_EXPECT(own != nullptr);
  return *own;
}

}  // namespace gptq::cuda
