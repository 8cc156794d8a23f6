#include "kernels/cuda/device.cuh"
#include "kernels/cuda/solve_tasks.h"

namespace gptq::cuda {
namespace {

constexpr int kTile = 32;
constexpr int kTileRows = 8;

/// One tile of 32 rows and columns: reads along the parts' rows, writes along the transposed ones.
__global__ void __launch_bounds__(kTile* kTileRows) fold_tile(const SolveFold fold) {
  __shared__ float tile[kTile * (kTile + 1)];
  const int x = static_cast<int>(threadIdx.x);
  const int y = static_cast<int>(threadIdx.y);
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const int column0 = static_cast<int>(blockIdx.y) * kTile;
  for (int i = y; i < kTile; i += kTileRows) {
    const float* from = fold.partial + (row0 + i) * kSolveTile + column0 + x;
    float sum = 0;
    for (int chunk = 0; chunk < fold.chunks; ++chunk, from += fold.rows * kSolveTile) sum += *from;
    tile[i * (kTile + 1) + x] = sum;
  }
  __syncthreads();
  for (int i = y; i < kTile; i += kTileRows) {
    const int column = column0 + i;
    if (column >= fold.width) continue;
    const std::int64_t place = column * fold.rows + row0 + x;
    float value = 0;
    if (column < fold.count) {
      const float sum = tile[x * (kTile + 1) + i];
      value = fold.base == nullptr ? sum : fold.base[place] - sum;
    }
    fold.out[place] = value;
  }
}

}  // namespace

void fold_parts(const CudaContext& context, const SolveFold& fold) {
  launch(context, fold_tile, dim3(static_cast<unsigned>(fold.rows / kTile), blocks_for(fold.width, kTile)),
         dim3(kTile, kTileRows), 0, fold);
}

}  // namespace gptq::cuda
