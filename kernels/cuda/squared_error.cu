#include <vector>

#include "base/error.h"
#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/forward_pack.cuh"

namespace gptq::cuda {
namespace {

struct Sums {
  double error, norm;
};

/// sums[r] of one row, a block each.
template <typename A, typename B>
__global__ void __launch_bounds__(256)
    compare_row(const A* a, std::int64_t a_stride, const B* b, std::int64_t b_stride, std::int64_t cols,
                bool aligned, Sums* sums) {
  __shared__ double error_parts[kMostWarps];
  __shared__ double norm_parts[kMostWarps];
  const std::int64_t row = blockIdx.x;
  double error = 0, norm = 0;
  for (std::int64_t c = threadIdx.x * kPack; c < cols; c += blockDim.x * kPack) {
    const Pack left = load_pack(a + row * a_stride, c, cols, aligned);
    const Pack right = load_pack(b + row * b_stride, c, cols, aligned);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const double value = left.v[i];
      const double difference = value - right.v[i];
      error = fma(difference, difference, error);
      norm = fma(value, value, norm);
    }
  }
  error = block_sum(error, error_parts);
  norm = block_sum(norm, norm_parts);
  if (threadIdx.x == 0) sums[row] = {error, norm};
}

/// totals[s] = the sum of sample s's rows, a block each.
__global__ void __launch_bounds__(256) add_rows(const Sums* sums, const std::int64_t* offsets, Sums* totals) {
  __shared__ double error_parts[kMostWarps];
  __shared__ double norm_parts[kMostWarps];
  double error = 0, norm = 0;
  for (std::int64_t r = offsets[blockIdx.x] + threadIdx.x; r < offsets[blockIdx.x + 1]; r += blockDim.x) {
    error += sums[r].error;
    norm += sums[r].norm;
  }
  error = block_sum(error, error_parts);
  norm = block_sum(norm, norm_parts);
  if (threadIdx.x == 0) totals[blockIdx.x] = {error, norm};
}

template <typename A, typename B>
void compare(const CudaContext& context, const Matrix& a, const Matrix& b, Sums* sums) {
  launch(context, &compare_row<A, B>, blocks_for(a.rows, 1), threads_for_row(a.cols), 0, a.row<const A>(0),
         a.stride, b.row<const B>(0), b.stride, a.cols, rows_aligned(a) && rows_aligned(b), sums);
}

}  // namespace

// Two steps, so that a sample's bits depend neither on the other samples nor on how many there are.
void CudaKernels::squared_error(const Batch& batch, const Matrix& a, const Matrix& b, std::span<double> error,
                                std::span<double> norm) {
  const auto samples = static_cast<std::size_t>(batch.samples());
  GPTQ_EXPECT(a.rows == batch.rows() && a.rows == b.rows && a.cols == b.cols);
  GPTQ_EXPECT(error.size() == samples && norm.size() == samples);
  if (samples == 0) return;
  const DeviceBuffer sums = context_.allocate((static_cast<std::size_t>(a.rows) + samples) * sizeof(Sums));
  Sums* const totals = sums.as<Sums>() + a.rows;
  const DeviceBuffer offsets = context_.allocate(batch.offsets.size() * sizeof(std::int64_t));
  context_.upload(offsets.data(), batch.offsets.data(), batch.offsets.size() * sizeof(std::int64_t));
  with_compute_type(a.dtype, [&](auto left) {
    with_compute_type(b.dtype, [&](auto right) {
      compare<decltype(left), decltype(right)>(context_, a, b, sums.as<Sums>());
    });
  });
  launch(context_, add_rows, static_cast<unsigned>(samples), dim3(256), 0, sums.as<Sums>(),
         offsets.as<std::int64_t>(), totals);
  std::vector<Sums> host(samples);
  context_.download(host.data(), totals, samples * sizeof(Sums));
  for (std::size_t s = 0; s < samples; ++s) {
    error[s] = host[s].error;
    norm[s] = host[s].norm;
  }
}

}  // namespace gptq::cuda
