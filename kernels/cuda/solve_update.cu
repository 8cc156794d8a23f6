#include "kernels/cuda/solve_tile.cuh"

/// Products of columns with parts of R, M or H in full single precision. A kernel of our own, as a library
/// would choose its algorithm, and with it a row's bits, by the number of rows.
namespace gptq::cuda {
namespace {

constexpr int kThreads = kTileThreads;

/// (depth rounded up to 16, 128) floats: b's rows [0, depth) and columns [0, count), zeros elsewhere.
__global__ void __launch_bounds__(kThreads)
    pack_columns(const float* b, std::int64_t stride, std::int64_t depth, int count, float* packed) {
  const int column = static_cast<int>(threadIdx.x) % kTile;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (kThreads / kTile) + threadIdx.x / kTile;
  packed[row * kTile + column] = row < depth && column < count ? b[row * stride + column] : 0.0f;
}

constexpr int kPiece = 16;  // rows of `packed` that a block of pack_transposed writes

/// The same of b stored (count, depth).
__global__ void __launch_bounds__(kThreads)
    pack_transposed(const float* b, std::int64_t stride, std::int64_t depth, int count, float* packed) {
  __shared__ float tile[kPiece * (kTile + 1)];
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kPiece;
  for (int i = static_cast<int>(threadIdx.x); i < kPiece * kTile; i += kThreads) {
    const int column = i / kPiece, k = i % kPiece;
    tile[k * (kTile + 1) + column] =
        column < count && first + k < depth ? b[column * stride + first + k] : 0.0f;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kPiece * kTile; i += kThreads)
    packed[first * kTile + i] = tile[i / kTile * (kTile + 1) + i % kTile];
}

/// Copies kDepth rows of both operands.
__device__ inline void fetch(const float* a, std::int64_t rows, const float* b, std::int64_t stride,
                             float* stage) {
  constexpr int kQuads = kTile / 4;
#pragma unroll
  for (int i = 0; i < kDepth * kQuads / kThreads; ++i) {
    const int item = static_cast<int>(threadIdx.x) + i * kThreads;
    const int k = item / kQuads;
    const int quad = item % kQuads * 4;
    cp_async_16(stage + k * kTile + quad, a + k * rows + quad, true);
    cp_async_16(stage + (kDepth + k) * kTile + quad, b + k * stride + quad, true);
  }
}

/// One tile of 128 rows, all 128 columns, one chunk of the depth.
__global__ void __launch_bounds__(kThreads, 2)
    multiply_chunk(const float* a, std::int64_t rows, const float* b, std::int64_t stride, std::int64_t depth,
                   float* partial) {
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * kSolveChunk;
  const std::int64_t left = depth - first;
  const int steps = static_cast<int>(left < kSolveChunk ? left : kSolveChunk) / kDepth;
  const float* const a_start = a + first * rows + row0;
  const float* const b_start = b + first * stride;

  const TilePlace at;
  float sum[8][8] = {};
  multiply_tile(
      dynamic_shared<float>(), steps, at,
      [&](int step, float* stage) {
        fetch(a_start + step * kDepth * rows, rows, b_start + step * kDepth * stride, stride, stage);
      },
      sum);

  float* const out = partial + (blockIdx.y * rows + row0) * kTile + at.column;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    float* const to = out + (at.row + (i < 4 ? i : i + 12)) * kTile;
    *reinterpret_cast<float4*>(to) = make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
    *reinterpret_cast<float4*>(to + 32) = make_float4(sum[i][4], sum[i][5], sum[i][6], sum[i][7]);
  }
}

}  // namespace

void multiply_columns(const CudaContext& context, const SolveProduct& product) {
  const std::int64_t depth = product.depth;
  const float* b = product.b;
  std::int64_t stride = product.stride;
  std::int64_t reach = depth;
  const bool aligned = !product.transposed && product.count == kTile && stride % 4 == 0 &&
                       depth % kDepth == 0 && reinterpret_cast<std::uintptr_t>(b) % 16 == 0;
  if (!aligned) {
    reach = (depth + kDepth - 1) / kDepth * kDepth;
    static_assert(kDepth % kPiece == 0);
    const std::int64_t rows_of_block = product.transposed ? kPiece : kThreads / kTile;
    launch(context, product.transposed ? pack_transposed : pack_columns,
           dim3(static_cast<unsigned>(reach / rows_of_block)), dim3(kThreads), 0, b, stride, depth,
           product.count, product.packed);
    b = product.packed;
    stride = kTile;
  }
  launch(context, multiply_chunk,
         dim3(static_cast<unsigned>(product.rows / kTile), static_cast<unsigned>(solve_chunks(depth))),
         dim3(kThreads), kTileShared, product.x, product.rows, b, stride, reach, product.partial);
}

}  // namespace gptq::cuda
