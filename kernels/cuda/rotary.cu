#include <algorithm>

#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/forward_pack.cuh"

namespace gptq::cuda {
namespace {

constexpr int kThreads = 256;  // of a block at most
constexpr int kSamples = 256;  // of one launch

struct SampleOffsets {
  std::int64_t at[kSamples + 1];
};

struct Heads {
  int count;
  int packs;  ///< that hold `half` features
  std::int64_t dim;
  std::int64_t half;  ///< features turned, over two
  std::int64_t stride;
  bool aligned;
};

/// Block (x, y) turns position x of sample y, a thread a pack of a head's first half against the same pack of
/// its second.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    turn(SampleOffsets offsets, Heads heads, const float* cos, const float* sin, T* x) {
  const std::int64_t position = blockIdx.x;
  const std::int64_t row = offsets.at[blockIdx.y] + position;
  if (row >= offsets.at[blockIdx.y + 1]) return;
  T* const features = x + row * heads.stride;
  for (int item = static_cast<int>(threadIdx.x); item < heads.count * heads.packs;
       item += static_cast<int>(blockDim.x)) {
    const int head = item / heads.packs;
    const std::int64_t feature = (item - head * heads.packs) * kPack;
    T* const lower = features + head * heads.dim;
    T* const upper = lower + heads.half;
    const Pack a = load_pack(lower, feature, heads.half, heads.aligned);
    const Pack b = load_pack(upper, feature, heads.half, heads.aligned);
    const Pack c = load_pack(cos + position * heads.half, feature, heads.half, heads.aligned);
    const Pack s = load_pack(sin + position * heads.half, feature, heads.half, heads.aligned);
    Pack turned_a;
    Pack turned_b;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      turned_a.v[i] = a.v[i] * c.v[i] - b.v[i] * s.v[i];
      turned_b.v[i] = b.v[i] * c.v[i] + a.v[i] * s.v[i];
    }
    store_pack(lower, feature, heads.half, heads.aligned, turned_a);
    store_pack(upper, feature, heads.half, heads.aligned, turned_b);
  }
}

}  // namespace

void CudaKernels::rotary(const Batch& batch, const Matrix& x, std::int64_t head_dim,
                         const RotaryTable& table) {
  GPTQ_EXPECT(x.dtype == DType::f32 || x.dtype == DType::bf16);
  GPTQ_EXPECT(x.rows == batch.rows() && x.cols % head_dim == 0 && table.rotary_dim <= head_dim);
  const std::int64_t half = table.rotary_dim / 2;
  const bool aligned = rows_aligned(x) && head_dim % kPack == 0 && half % kPack == 0 &&
                       rows_aligned(table.cos, half, DType::f32) && rows_aligned(table.sin, half, DType::f32);
  const auto count = static_cast<int>(x.cols / head_dim);
  const auto packs = static_cast<int>((half + kPack - 1) / kPack);
  const Heads heads{count, packs, head_dim, half, x.stride, aligned};
  const unsigned threads = threads_for_row(static_cast<std::int64_t>(count) * packs * kPack);

  for (std::int64_t done = 0; done < batch.samples(); done += kSamples) {
    const std::int64_t samples = std::min<std::int64_t>(kSamples, batch.samples() - done);
    SampleOffsets offsets{};
    std::int64_t longest = 0;
    for (std::int64_t s = 0; s <= samples; ++s) {
      offsets.at[s] = batch.offsets[static_cast<std::size_t>(done + s)];
      if (s > 0) longest = std::max(longest, offsets.at[s] - offsets.at[s - 1]);
    }
    GPTQ_EXPECT(longest <= table.positions);
    const dim3 grid(static_cast<unsigned>(longest), static_cast<unsigned>(samples));
    with_compute_type(x.dtype, [&](auto type) {
      using T = decltype(type);
      launch(context_, &turn<T>, grid, threads, 0, offsets, heads, table.cos, table.sin, x.row<T>(0));
    });
  }
}

}  // namespace gptq::cuda
