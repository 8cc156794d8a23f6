#include <algorithm>

#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/forward_pack.cuh"

namespace gptq::cuda {
namespace {

constexpr int kSamples = 256;  // of one launch

struct Starts {
  std::int64_t at[kSamples + 1];
};

/// Block (x, y): position x of sample y.
__global__ void __launch_bounds__(256)
    add_position(Starts starts, const float* table, std::int64_t table_stride, float* hidden,
                 std::int64_t stride, std::int64_t cols, bool aligned) {
  const std::int64_t row = starts.at[blockIdx.y] + blockIdx.x;
  if (row >= starts.at[blockIdx.y + 1]) return;
  float* const out = hidden + row * stride;
  const float* const added = table + static_cast<std::int64_t>(blockIdx.x) * table_stride;
  for (std::int64_t c = threadIdx.x * kPack; c < cols; c += blockDim.x * kPack) {
    Pack sum = load_pack(out, c, cols, aligned);
    const Pack position = load_pack(added, c, cols, aligned);
#pragma unroll
    for (int i = 0; i < kPack; ++i) sum.v[i] += position.v[i];
    store_pack(out, c, cols, aligned, sum);
  }
}

}  // namespace

void CudaKernels::add_positions(const Batch& batch, const Matrix& table, std::int64_t first,
                                const Matrix& hidden) {
  GPTQ_EXPECT(table.dtype == DType::f32 && hidden.dtype == DType::f32 && table.cols == hidden.cols);
  GPTQ_EXPECT(hidden.rows == batch.rows() && first >= 0);
  for (std::int64_t done = 0; done < batch.samples(); done += kSamples) {
    const std::int64_t samples = std::min<std::int64_t>(kSamples, batch.samples() - done);
    Starts starts{};
    std::int64_t longest = 0;
    for (std::int64_t s = 0; s <= samples; ++s) {
      starts.at[s] = batch.offsets[static_cast<std::size_t>(done + s)];
      if (s > 0) longest = std::max(longest, starts.at[s] - starts.at[s - 1]);
    }
    GPTQ_EXPECT(longest <= table.rows - first);
    const dim3 grid(static_cast<unsigned>(longest), static_cast<unsigned>(samples));
    launch(context_, &add_position, grid, threads_for_row(hidden.cols), 0, starts,
           table.row<const float>(first), table.stride, hidden.row<float>(0), hidden.stride, hidden.cols,
           rows_aligned(table) && rows_aligned(hidden));
  }
}

}  // namespace gptq::cuda
