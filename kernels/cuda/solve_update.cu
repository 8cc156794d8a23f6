#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/solve_tasks.h"

/// The left-looking update in full single precision. A kernel of our own, as a library would choose its
/// algorithm, and with it a row's bits, by the number of rows.
namespace gptq::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = kSolveTile;
constexpr int kDepth = 16;  // columns in shared memory at a time
constexpr int kStages = 3;
constexpr int kStage = 2 * kDepth * kTile;  // floats: both operands
constexpr std::size_t kShared = kStages * kStage * sizeof(float);
static_assert(kSolveChunk % kDepth == 0 && kShared <= 48 * 1024);

/// (depth rounded up to 16, 128) floats: R's rows [0, depth) and columns [depth, depth + count), zeros
/// elsewhere.
__global__ void __launch_bounds__(kThreads)
    pack_columns(const float* r, std::int64_t n, std::int64_t depth, int count, float* packed) {
  const int column = static_cast<int>(threadIdx.x) % kTile;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (kThreads / kTile) + threadIdx.x / kTile;
  packed[row * kTile + column] = row < depth && column < count ? r[row * n + depth + column] : 0.0f;
}

/// Copies kDepth columns of the transposed difference and rows of R.
__device__ inline void fetch(const float* difference, std::int64_t rows, const float* b, std::int64_t stride,
                             float* stage) {
  constexpr int kQuads = kTile / 4;
#pragma unroll
  for (int i = 0; i < kDepth * kQuads / kThreads; ++i) {
    const int item = static_cast<int>(threadIdx.x) + i * kThreads;
    const int k = item / kQuads;
    const int quad = item % kQuads * 4;
    cp_async_16(stage + k * kTile + quad, difference + k * rows + quad, true);
    cp_async_16(stage + (kDepth + k) * kTile + quad, b + k * stride + quad, true);
  }
}

__device__ inline void load_halves(const float* from, int apart, float (&to)[8]) {
  const float4 first = *reinterpret_cast<const float4*>(from);
  const float4 second = *reinterpret_cast<const float4*>(from + apart);
  to[0] = first.x;
  to[1] = first.y;
  to[2] = first.z;
  to[3] = first.w;
  to[4] = second.x;
  to[5] = second.y;
  to[6] = second.z;
  to[7] = second.w;
}

/// One tile of 128 rows, all 128 columns, one chunk of the depth. A warp has 32 rows and 64 columns; a thread
/// rows {0..3, 16..19} and columns {0..3, 32..35} of its corner, so that a warp's loads of shared memory are
/// 64 and 128 consecutive bytes. Sums run over rising columns, one product after the other.
__global__ void __launch_bounds__(kThreads, 2)
    multiply_chunk(const float* difference, std::int64_t rows, const float* b, std::int64_t stride,
                   std::int64_t depth, float* partial) {
  float* const stages = dynamic_shared<float>();
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * kSolveChunk;
  const std::int64_t left = depth - first;
  const int steps = static_cast<int>(left < kSolveChunk ? left : kSolveChunk) / kDepth;
  const float* const a_start = difference + first * rows + row0;
  const float* const b_start = b + first * stride;

  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int row = warp / 2 * 32 + lane / 8 * 4;
  const int column = warp % 2 * 64 + lane % 8 * 4;

  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps)
      fetch(a_start + s * kDepth * rows, rows, b_start + s * kDepth * stride, stride, stages + s * kStage);
    cp_async_commit();
  }
  float sum[8][8] = {};
  int slot = 0;
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kStages - 2>();
    __syncthreads();  // this stage has arrived, and the one to be overwritten has been read
    const int next = step + kStages - 1;
    if (next < steps)
      fetch(a_start + next * kDepth * rows, rows, b_start + next * kDepth * stride, stride,
            stages + (slot == 0 ? kStages - 1 : slot - 1) * kStage);
    cp_async_commit();
    const float* const stage = stages + slot * kStage;
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      float x[8];
      float y[8];
      load_halves(stage + k * kTile + row, 16, x);
      load_halves(stage + (kDepth + k) * kTile + column, 32, y);
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
    }
    slot = slot == kStages - 1 ? 0 : slot + 1;
  }

  float* const out = partial + (blockIdx.y * rows + row0) * kTile + column;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    float* const to = out + (row + (i < 4 ? i : i + 12)) * kTile;
    *reinterpret_cast<float4*>(to) = make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
    *reinterpret_cast<float4*>(to + 32) = make_float4(sum[i][4], sum[i][5], sum[i][6], sum[i][7]);
  }
}

}  // namespace

void multiply_finished(const CudaContext& context, const float* difference, std::int64_t rows, const float* r,
                       std::int64_t n, std::int64_t depth, int count, float* packed, float* partial) {
  const float* b = r + depth;
  std::int64_t stride = n;
  std::int64_t reach = depth;
  if (count != kTile || n % 4 != 0 || depth % kDepth != 0) {
    reach = (depth + kDepth - 1) / kDepth * kDepth;
    launch(context, pack_columns, dim3(static_cast<unsigned>(reach / (kThreads / kTile))), dim3(kThreads), 0,
           r, n, depth, count, packed);
    b = packed;
    stride = kTile;
  }
  launch(context, multiply_chunk, dim3(static_cast<unsigned>(rows / kTile), solve_chunks(depth)),
         dim3(kThreads), kShared, difference, rows, b, stride, reach, partial);
}

}  // namespace gptq::cuda
