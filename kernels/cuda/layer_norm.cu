#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/forward_pack.cuh"

namespace gptq::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr std::int64_t kWarpWidth = 1024;  // up to here a warp is enough for a run

/// The runs of columns that are normalised one by one.
struct Runs {
  std::int64_t count;
  std::int64_t per_row;
  std::int64_t width;
  std::int64_t weight_step;  ///< from a run's weights to the next one's: 0 where they share them
  std::int64_t x_stride, y_stride;
  float eps;
  bool aligned;
};

/// The sum over a team; every thread gets it. parts: shared, one float a warp of the block.
template <int kTeam>
__device__ inline float team_sum(float x, int thread, float* parts) {
  x = warp_sum(x);
  if constexpr (kTeam > kWarp) {
    __syncthreads();  // all have left the parts of the sum before
    if (thread % kWarp == 0) parts[thread / kWarp] = x;
    __syncthreads();
    x = 0;
    for (int w = 0; w < kTeam / kWarp; ++w) x += parts[w];
  }
  return x;
}

/// One team of kTeam threads a run. y may be x: each thread writes only what it alone has read. bias may be
/// null.
template <int kTeam, typename In, typename Out>
__global__ void __launch_bounds__(kThreads)
    center_runs(Runs runs, const In* x, const float* weight, const float* bias, Out* y) {
  __shared__ float parts[kThreads / kWarp];
  const std::int64_t run = static_cast<std::int64_t>(blockIdx.x) * (kThreads / kTeam) + threadIdx.x / kTeam;
  if (run >= runs.count) return;  // whole warps; never where a block is one team
  const std::int64_t row = run / runs.per_row;
  const std::int64_t place = run - row * runs.per_row;
  const In* const in = x + row * runs.x_stride + place * runs.width;
  Out* const out = y + row * runs.y_stride + place * runs.width;
  const int thread = static_cast<int>(threadIdx.x) % kTeam;
  const auto width = static_cast<float>(runs.width);

  float sum = 0;
  for (std::int64_t c = thread * kPack; c < runs.width; c += kTeam * kPack) {
    const Pack pack = load_pack(in, c, runs.width, runs.aligned);
#pragma unroll
    for (int i = 0; i < kPack; ++i) sum += pack.v[i];
  }
  const float mean = team_sum<kTeam>(sum, thread, parts) / width;

  float squares = 0;
  for (std::int64_t c = thread * kPack; c < runs.width; c += kTeam * kPack) {
    const Pack pack = load_pack(in, c, runs.width, runs.aligned, mean);
#pragma unroll
    for (int i = 0; i < kPack; ++i) squares = fmaf(pack.v[i] - mean, pack.v[i] - mean, squares);
  }
  const float factor = 1.0f / sqrtf(team_sum<kTeam>(squares, thread, parts) / width + runs.eps);

  const float* const weights = weight + place * runs.weight_step;
  const float* const biases = bias == nullptr ? nullptr : bias + place * runs.weight_step;
  for (std::int64_t c = thread * kPack; c < runs.width; c += kTeam * kPack) {
    Pack pack = load_pack(in, c, runs.width, runs.aligned);
    const Pack scale = load_pack(weights, c, runs.width, runs.aligned);
    Pack offset{};
    if (biases != nullptr) offset = load_pack(biases, c, runs.width, runs.aligned);
#pragma unroll
    for (int i = 0; i < kPack; ++i) pack.v[i] = (pack.v[i] - mean) * factor * scale.v[i] + offset.v[i];
    store_pack(out, c, runs.width, runs.aligned, pack);
  }
}

template <typename In, typename Out>
void center(const CudaContext& context, const Runs& runs, const Matrix& x, std::span<const float> weight,
            std::span<const float> bias, const Matrix& y) {
  const float* const offset = bias.empty() ? nullptr : bias.data();
  if (runs.width <= kWarpWidth) {
    launch(context, &center_runs<kWarp, In, Out>, blocks_for(runs.count, kThreads / kWarp), kThreads, 0, runs,
           x.row<In>(0), weight.data(), offset, y.row<Out>(0));
  } else {
    launch(context, &center_runs<kThreads, In, Out>, blocks_for(runs.count, 1), kThreads, 0, runs,
           x.row<In>(0), weight.data(), offset, y.row<Out>(0));
  }
}

}  // namespace

void CudaKernels::layer_norm(const Matrix& x, std::int64_t features, std::span<const float> weight,
                             std::span<const float> bias, float eps, const Matrix& y) {
  const auto size = static_cast<std::int64_t>(weight.size());
  GPTQ_EXPECT(x.dtype == DType::f32 || x.dtype == y.dtype);
  GPTQ_EXPECT(y.dtype == DType::f32 || y.dtype == DType::bf16);
  GPTQ_EXPECT(x.rows == y.rows && x.cols == y.cols && features > 0 && x.cols % features == 0);
  GPTQ_EXPECT((size == features || size == x.cols) && (bias.empty() || bias.size() == weight.size()));
  const std::int64_t per_row = x.cols / features;
  const bool aligned = rows_aligned(x) && rows_aligned(y) && (per_row == 1 || features % kPack == 0) &&
                       rows_aligned(weight.data(), kPack, DType::f32) &&
                       (bias.empty() || rows_aligned(bias.data(), kPack, DType::f32));
  const Runs runs{x.rows * per_row, per_row,  features, size == features ? 0 : features,
                  x.stride,         y.stride, eps,      aligned};
  if (y.dtype == DType::f32) {
    center<float, float>(context_, runs, x, weight, bias, y);
  } else if (x.dtype == DType::f32) {
    center<float, bfloat16>(context_, runs, x, weight, bias, y);
  } else {
    center<bfloat16, bfloat16>(context_, runs, x, weight, bias, y);
  }
}

}  // namespace gptq::cuda
