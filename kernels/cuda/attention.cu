#include "kernels/cuda/attention.cuh"

#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"

namespace gptq::cuda {
namespace {

constexpr std::int64_t kLongestSample = 1 << 30;  // positions are ints, with room to add a tile

void check(const Batch& batch, const AttentionShape& shape, const Matrix& q, const Matrix& k, const Matrix& v,
           const Matrix& out) {
  GPTQ_EXPECT(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0 && shape.head_dim > 0 &&
              shape.scale > 0);
  GPTQ_EXPECT(q.dtype == DType::f32 || q.dtype == DType::bf16);
  for (const Matrix* m : {&q, &k, &v, &out}) GPTQ_EXPECT(m->dtype == q.dtype && m->rows == batch.rows());
  GPTQ_EXPECT(q.cols == shape.heads * shape.head_dim && out.cols == q.cols);
  GPTQ_EXPECT(k.cols == shape.kv_heads * shape.head_dim && v.cols == k.cols);
  for (std::int64_t s = 0; s < batch.samples(); ++s) {
    const std::int64_t length = batch.offsets[s + 1] - batch.offsets[s];
    GPTQ_EXPECT(length <= kLongestSample);
    GPTQ_EXPECT(shape.key_bias == nullptr || length <= shape.key_bias_positions);
  }
}

}  // namespace

void CudaKernels::attention(const Batch& batch, const AttentionShape& shape, const Matrix& q, const Matrix& k,
                            const Matrix& v, const Matrix& out) {
  check(batch, shape, q, k, v, out);
  const auto kernel = attention_bf16_takes(shape, q, k, v, out) ? attention_bf16 : attention_f32;
  kernel(context_, batch, shape, q, k, v, out);
}

}  // namespace gptq::cuda
