#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/forward_pack.cuh"

namespace gptq::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr std::int64_t kWarpWidth = 1024;  // up to here a warp is enough for a segment

/// The parts of rows that are normalised one by one: whole rows, or the heads of each.
struct Segments {
  std::int64_t count;
  std::int64_t per_row;
  std::int64_t width;
  std::int64_t x_stride, y_stride;
  float eps, weight_offset;
  bool aligned;
};

/// One team of kTeam threads a segment. y may be x: each thread writes only what it alone has read.
template <int kTeam, typename In, typename Out>
__global__ void __launch_bounds__(kThreads)
    norm_segments(Segments segments, const In* x, const float* weight, Out* y) {
  __shared__ float parts[kThreads / kWarp];
  const std::int64_t segment =
      static_cast<std::int64_t>(blockIdx.x) * (kThreads / kTeam) + threadIdx.x / kTeam;
  if (segment >= segments.count) return;  // whole warps; never where a block is one team
  const std::int64_t row = segment / segments.per_row;
  const std::int64_t first = (segment - row * segments.per_row) * segments.width;
  const In* const in = x + row * segments.x_stride + first;
  Out* const out = y + row * segments.y_stride + first;
  const int thread = static_cast<int>(threadIdx.x) % kTeam;

  float sum = 0;
  for (std::int64_t c = thread * kPack; c < segments.width; c += kTeam * kPack) {
    const Pack pack = load_pack(in, c, segments.width, segments.aligned);
#pragma unroll
    for (int i = 0; i < kPack; ++i) sum = fmaf(pack.v[i], pack.v[i], sum);
  }
  sum = warp_sum(sum);
  if constexpr (kTeam > kWarp) {
    if (thread % kWarp == 0) parts[thread / kWarp] = sum;
    __syncthreads();
    sum = 0;
    for (int w = 0; w < kTeam / kWarp; ++w) sum += parts[w];
  }
  const float factor = 1.0f / sqrtf(sum / static_cast<float>(segments.width) + segments.eps);

  for (std::int64_t c = thread * kPack; c < segments.width; c += kTeam * kPack) {
    Pack pack = load_pack(in, c, segments.width, segments.aligned);
    const Pack scale = load_pack(weight, c, segments.width, segments.aligned);
#pragma unroll
    for (int i = 0; i < kPack; ++i) pack.v[i] = pack.v[i] * factor * (scale.v[i] + segments.weight_offset);
    store_pack(out, c, segments.width, segments.aligned, pack);
  }
}

template <typename In, typename Out>
void norm(const CudaContext& context, const Segments& segments, const Matrix& x,
          std::span<const float> weight, const Matrix& y) {
  const In* const in = x.row<In>(0);
  Out* const out = y.row<Out>(0);
  if (segments.width <= kWarpWidth) {
    launch(context, &norm_segments<kWarp, In, Out>, blocks_for(segments.count, kThreads / kWarp), kThreads, 0,
           segments, in, weight.data(), out);
  } else {
    launch(context, &norm_segments<kThreads, In, Out>, blocks_for(segments.count, 1), kThreads, 0, segments,
           in, weight.data(), out);
  }
}

void norm_rows(const CudaContext& context, const Matrix& x, std::span<const float> weight, float eps,
               float weight_offset, const Matrix& y) {
  GPTQ_EXPECT(x.dtype == DType::f32 || x.dtype == y.dtype);
  GPTQ_EXPECT(y.dtype == DType::f32 || y.dtype == DType::bf16);
  GPTQ_EXPECT(x.rows == y.rows && x.cols == y.cols && !weight.empty());
  const auto width = static_cast<std::int64_t>(weight.size());
  const std::int64_t per_row = x.cols / width;
  const bool aligned = rows_aligned(x) && rows_aligned(y) && (per_row == 1 || width % kPack == 0) &&
                       rows_aligned(weight.data(), kPack, DType::f32);
  const Segments segments{x.rows * per_row, per_row, width, x.stride, y.stride, eps, weight_offset, aligned};
  if (y.dtype == DType::f32) {
    norm<float, float>(context, segments, x, weight, y);
  } else if (x.dtype == DType::f32) {
    norm<float, bfloat16>(context, segments, x, weight, y);
  } else {
    norm<bfloat16, bfloat16>(context, segments, x, weight, y);
  }
}

}  // namespace

void CudaKernels::rms_norm(const Matrix& x, std::span<const float> weight, float eps, float weight_offset,
                           const Matrix& y) {
  GPTQ_EXPECT(x.cols == static_cast<std::int64_t>(weight.size()));
  norm_rows(context_, x, weight, eps, weight_offset, y);
}

void CudaKernels::head_rms_norm(const Matrix& x, std::span<const float> weight, float eps,
                                float weight_offset) {
  GPTQ_EXPECT(!weight.empty() && x.cols % static_cast<std::int64_t>(weight.size()) == 0);
  norm_rows(context_, x, weight, eps, weight_offset, x);
}

}  // namespace gptq::cuda
