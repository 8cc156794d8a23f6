#include "kernels/cuda/device.cuh"
#include "kernels/cuda/solve_tasks.h"

namespace gptq::cuda {
namespace {

constexpr int kSize = kSolveTile;
constexpr int kWork = kSize * (kSize + 1) / 2;  // elements of a triangle
constexpr std::size_t kShared = (kWork + kSize) * sizeof(double);

/// Where row i of the packed upper triangle would have its column 0.
__device__ inline int row_start(int i) {
  return i * kSize - i * (i + 1) / 2;
}

/// A block a triangle, a thread a column of its inverse: x_i = (δ_ij - Σ_{k > i} r_ik x_k) / r_ii from the
/// last row up. Every row of R is first copied to shared memory.
__global__ void __launch_bounds__(kSize)
    invert_triangle(const float* r, std::int64_t n, const int* batch_first, const int* batch_count,
                    float* inverse, float* pivot) {
  double* const work = dynamic_shared<double>();
  double* const row = work + kWork;
  const int column = static_cast<int>(threadIdx.x);
  const std::int64_t first = batch_first[blockIdx.x];
  const int count = batch_count[blockIdx.x];
  const float* const block = r + first * n + first;
  float* const out = inverse + static_cast<std::int64_t>(blockIdx.x) * kSize * kSize;

  for (int i = kSize - 1; i >= count; --i) out[i * kSize + column] = 0;
  for (int i = count - 1; i >= 0; --i) {
    __syncthreads();  // the last row has been read by all
    if (column < count && column >= i) row[column] = block[i * n + column];
    __syncthreads();
    double x = column == i ? 1.0 : 0.0;
    if (column >= i && column < count) {
      for (int k = i + 1; k <= column; ++k) x = fma(-row[k], work[row_start(k) + column], x);
      x *= 1.0 / row[i];
      work[row_start(i) + column] = x;
    }
    out[i * kSize + column] = column < count ? static_cast<float>(x) : 0.0f;
    if (column == 0) pivot[blockIdx.x * kSize + i] = static_cast<float>(row[i]);
  }
}

}  // namespace

void invert_triangles(const CudaContext& context, const float* r, std::int64_t n, const int* batch_first,
                      const int* batch_count, int batches, float* inverse, float* pivot) {
  launch(context, invert_triangle, dim3(static_cast<unsigned>(batches)), dim3(kSize), kShared, r, n,
         batch_first, batch_count, inverse, pivot);
}

}  // namespace gptq::cuda
