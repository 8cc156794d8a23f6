#include <algorithm>

#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/cuda_linear.h"
#include "kernels/cuda/forward_pack.cuh"

namespace gptq::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr float kLowest = -3.402823466e38f;  // a score below all others; infinity would make NaN of inf - inf
constexpr float kNothing = -__builtin_huge_valf();
constexpr std::int64_t kLogitBytes = 1 << 30;  // of logits held at once

/// Sum of exp(score) of some scores, as sum · exp(top).
struct ScaledSum {
  float top;
  double sum;
};

__device__ inline ScaledSum operator+(const ScaledSum& a, const ScaledSum& b) {
  const float top = fmaxf(a.top, b.top);
  return {top,
          a.sum * static_cast<double>(expf(a.top - top)) + b.sum * static_cast<double>(expf(b.top - top))};
}

__device__ inline float shaped(const LogitForm& form, float z) {
  z *= form.scale;
  return form.cap > 0 ? form.cap * tanhf(z / form.cap) : z;
}

__device__ inline ScaledSum of_pack(const Pack& scores) {
  ScaledSum result{kLowest, 0};
#pragma unroll
  for (int i = 0; i < kPack; ++i) result.top = fmaxf(result.top, scores.v[i]);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kPack; ++i) sum += expf(scores.v[i] - result.top);
  result.sum = static_cast<double>(sum);
  return result;
}

__device__ inline ScaledSum of_warp(ScaledSum mine) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const ScaledSum other{__shfl_xor_sync(kAllLanes, mine.top, offset),
                          __shfl_xor_sync(kAllLanes, mine.sum, offset)};
    mine = mine + other;
  }
  return mine;
}

/// losses[row] = log Σ exp(logits(row, ·)) − logits(row, target). One block a row. Exponentials are f32,
/// their sums f64 beyond packs of eight: about 1e-6 off at worst, far below what a bf16 logit is worth.
__global__ void __launch_bounds__(kThreads)
    row_losses(const float* logits, std::int64_t stride, std::int64_t vocabulary, LogitForm form,
               const std::int32_t* targets, double* losses) {
  __shared__ float tops[kWarps];
  __shared__ double sums[kWarps];
  const float* const row = logits + static_cast<std::int64_t>(blockIdx.x) * stride;
  ScaledSum mine{kLowest, 0};
  const bool plain = form.scale == 1 && form.cap == 0;
  for (std::int64_t c = threadIdx.x * kPack; c < vocabulary; c += kThreads * kPack) {
    Pack scores = load_pack(row, c, vocabulary, true, kNothing);
    if (!plain) {
#pragma unroll
      for (int i = 0; i < kPack; ++i)
        if (c + i < vocabulary) scores.v[i] = shaped(form, scores.v[i]);
    }
    mine = mine + of_pack(scores);
  }
  mine = of_warp(mine);
  if (threadIdx.x % 32 == 0) {
    tops[threadIdx.x / 32] = mine.top;
    sums[threadIdx.x / 32] = mine.sum;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  ScaledSum all{kLowest, 0};
  for (int w = 0; w < kWarps; ++w) all = all + ScaledSum{tops[w], sums[w]};
  const std::int32_t target = targets[blockIdx.x];
  losses[blockIdx.x] = 0;
  if (target < 0) return;
  const float score = plain ? row[target] : shaped(form, row[target]);
  losses[blockIdx.x] = static_cast<double>(all.top) + log(all.sum) - static_cast<double>(score);
}

}  // namespace

void CudaKernels::cross_entropy(const Batch& batch, const Matrix& x, const LinearWeights& head,
                                std::span<const std::int32_t> targets, std::span<double> losses,
                                const LogitForm& form) {
  const CudaLinear& own = cuda_linear(head);
  const auto rows = static_cast<std::size_t>(x.rows);
  GPTQ_EXPECT(x.dtype == own.compute() && x.cols == own.in_features() && x.rows == batch.rows());
  GPTQ_EXPECT(targets.size() == rows && losses.size() == rows);
  for (const std::int32_t target : targets) GPTQ_EXPECT(target < own.out_features());
  if (rows == 0) return;

  auto* const device_losses =
      static_cast<double*>(context_.scratch(kScratchTargets, losses.size_bytes() + targets.size_bytes()));
  auto* const device_targets = reinterpret_cast<std::int32_t*>(device_losses + rows);
  context_.upload(device_targets, targets.data(), targets.size_bytes());

  const std::int64_t vocabulary = own.out_features();
  const std::int64_t stride = (vocabulary + kPack - 1) / kPack * kPack;
  const std::int64_t fitting = kLogitBytes / (stride * 4);
  const std::int64_t slice = std::min(x.rows, std::max<std::int64_t>(128, fitting / 128 * 128));
  auto* const logits =
      static_cast<float*>(context_.scratch(kScratchLogits, static_cast<std::size_t>(slice * stride) * 4));
  for (std::int64_t first = 0; first < x.rows; first += slice) {
    const std::int64_t count = std::min(slice, x.rows - first);
    const Matrix y{logits, DType::f32, count, vocabulary, stride};
    apply_linear(context_, x.rows_from(first, count), own, y, false);
    launch(context_, &row_losses, blocks_for(count, 1), kThreads, 0, logits, stride, vocabulary, form,
           device_targets + first, device_losses + first);
  }
  context_.download(losses.data(), device_losses, losses.size_bytes());
}

}  // namespace gptq::cuda
