#include "kernels/cuda/hessian_fused.cuh"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "kernels/cuda/hessian.h"
#include "kernels/cuda/hessian_panels.cuh"

namespace gptq::cuda {
namespace {

using namespace fused;

constexpr int kLeastSteps = 8;  // of kStep rows, that a block is started for
constexpr int kTileGroup = 8;   // tile rows whose tiles follow each other: together they stay in the L2 cache
constexpr int kPatchStride = 72;  // floats; 64 and what keeps a warp's writes in different banks
static_assert(kThreads / 32 * 16 * kPatchStride * sizeof(float) <= kSharedBytes);

/// `tiles` tiles of `steps` steps each, cut into units: the first `whole` tiles are one each, the steps of
/// the rest are cut into `runs` equal runs. Where a tile is cut it is rounded to integers part by part, and
/// every part is added atomically: in any order the sum is the same. So any block may take any unit, in turn:
/// where a reduction over the ranks holds some multiprocessors, or gives them back, the others share what is
/// left.
struct Work {
  const unsigned* tile_of;  ///< (tiles) tile row << 16 | tile column
  int tiles, whole, runs, steps;
  int* next;  ///< the unit that nobody has taken yet
};

/// Rounds the warp's outputs and adds them to the sum. Through `patch`, 16×kPatchStride floats of this warp
/// alone, so that neighbouring lanes add to neighbouring integers.
__device__ void add_tile(const float (&sum)[4][8][4], int tile_row, int tile_col, int n,
                         const WarpPlace& place, const float* scale, float* patch,
                         unsigned long long* total) {
  const int lane = place.lane, group = lane / 4, member = lane % 4;
  const int first_row = tile_row + place.row, left = tile_col + place.col + lane, right = left + 32;
  const float left_scale = left < n ? scale[left] : 0.0f, right_scale = right < n ? scale[right] : 0.0f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      float* const to = patch + group * kPatchStride + 8 * j + 2 * member;
      *reinterpret_cast<float2*>(to) = make_float2(sum[i][j][0], sum[i][j][1]);
      *reinterpret_cast<float2*>(to + 8 * kPatchStride) = make_float2(sum[i][j][2], sum[i][j][3]);
    }
    __syncwarp();
    for (int r = 0; r < 16; ++r) {
      const int row = first_row + 16 * i + r;
      if (row >= n) break;  // the same for the whole warp
      const float row_scale = scale[row];
      unsigned long long* const to = total + panel_row(n, row);
      const float* const from = patch + r * kPatchStride + lane;
      if (left >= row && left < n)
        atomicAdd(to + left, static_cast<unsigned long long>(scaled_integer(from[0], row_scale, left_scale)));
      if (right >= row && right < n)
        atomicAdd(to + right,
                  static_cast<unsigned long long>(scaled_integer(from[32], row_scale, right_scale)));
    }
    __syncwarp();
  }
}

__device__ inline void do_part(const Source& source, const Work& work, int tile, int begin, int end,
                               const float* scale, unsigned long long* total) {
  char* const shared = dynamic_shared<char>();
  const unsigned packed = work.tile_of[tile];
  const int tile_row = static_cast<int>(packed >> 16) * kTileRows;
  const int tile_col = static_cast<int>(packed & 0xffffu) * kTileCols;
  const WarpPlace place = warp_place();
  float sum[4][8][4];
  multiply_tile(source, tile_row, tile_col, begin, end, place, shared, sum);
  float* const patch = reinterpret_cast<float*>(shared) + threadIdx.x / 32 * 16 * kPatchStride;
  add_tile(sum, tile_row, tile_col, source.n, place, scale, patch, total);
  __syncthreads();  // the patches become stages again
}

/// Of all tiles' steps one after the other, the first of a run.
__device__ inline int run_start(const Work& work, int run) {
  const std::int64_t cut = static_cast<std::int64_t>(work.tiles - work.whole) * work.steps;
  return work.whole * work.steps + static_cast<int>(cut * run / work.runs);
}

__global__ void __launch_bounds__(kThreads, 1)
    hessian_fused_kernel(Source source, Work work, const float* scale, unsigned long long* total) {
  __shared__ int taken;
  while (true) {
    if (threadIdx.x == 0) taken = atomicAdd(work.next, 1);
    __syncthreads();
    const int unit = taken;
    __syncthreads();
    if (unit >= work.whole + work.runs) break;
    const int run = unit - work.whole;
    int at = run < 0 ? unit * work.steps : run_start(work, run);
    const int end = run < 0 ? at + work.steps : run_start(work, run + 1);
    while (at < end) {
      const int tile = at / work.steps, begin = at - tile * work.steps;
      const int part = min(work.steps - begin, end - at);
      do_part(source, work, tile, begin, begin + part, scale, total);
      at += part;
    }
  }
}

/// All tiles that hold an element of the upper triangle's panels in the range. (What the panels store below
/// it stays as it is: nobody reads it, and its tiles would cost 4 % more at n = 4096.)
std::vector<unsigned> tiles_of(std::int64_t n, PanelRange range) {
  constexpr std::int64_t panel = TriangularPanels::kPanel;
  static_assert(kRangeStep * panel % kTileRows == 0);
  const auto first_col = [](std::int64_t tile_row) { return tile_row * kTileRows / kTileCols; };
  const std::int64_t end_row = std::min(range.end * panel, n);
  const std::int64_t tile_rows = (end_row + kTileRows - 1) / kTileRows;
  const std::int64_t tile_cols = (n + kTileCols - 1) / kTileCols;
  std::vector<unsigned> tiles;
  for (std::int64_t group = range.first * panel / kTileRows; group < tile_rows; group += kTileGroup)
    for (std::int64_t col = first_col(group); col < tile_cols; ++col)
      for (std::int64_t row = group; row < std::min(group + kTileGroup, tile_rows); ++row)
        if (col >= first_col(row)) tiles.push_back(static_cast<unsigned>(row << 16 | col));
  return tiles;
}

}  // namespace

void accumulate_fused(CudaContext& context, const Matrix& x, std::span<const float> scale, PanelRange range,
                      std::int64_t* sum) {
  GPTQ_EXPECT(x.dtype == DType::bf16 && x.stride % 8 == 0 && x.stride >= (x.cols + 7) / 8 * 8);
  GPTQ_EXPECT(x.rows < (std::int64_t{1} << 30) && x.cols < 65535 * std::int64_t{kTileRows});
  const std::vector<unsigned> tiles = tiles_of(x.cols, range);

  // One upload: scales, tiles, and the first unit to be taken: 0.
  std::vector<unsigned> tables(scale.size() + tiles.size() + 1);
  std::memcpy(tables.data(), scale.data(), scale.size_bytes());
  std::copy(tiles.begin(), tiles.end(), tables.begin() + static_cast<std::ptrdiff_t>(scale.size()));
  auto* const there =
      static_cast<unsigned*>(context.scratch(kScratchExponents, tables.size() * sizeof(unsigned)));
  context.upload(there, tables.data(), tables.size() * sizeof(unsigned));

  Work work{};
  work.tile_of = there + scale.size();
  work.next = reinterpret_cast<int*>(there + tables.size() - 1);
  work.tiles = static_cast<int>(tiles.size());
  work.steps = static_cast<int>((x.rows + kStep - 1) / kStep);
  GPTQ_EXPECT(std::int64_t{work.tiles} * work.steps < std::int64_t{1} << 31);
  // The cut depends on the shape, the range and the kind of GPU, like the library's products.
  const std::int64_t useful = (std::int64_t{work.tiles} * work.steps + kLeastSteps - 1) / kLeastSteps;
  const int blocks = static_cast<int>(std::min<std::int64_t>(context.multiprocessors(), useful));
  const int rounds = work.tiles / blocks;
  work.whole = (work.tiles % blocks == 0 ? rounds : std::max(rounds - 1, 0)) * blocks;
  work.runs = work.whole == work.tiles ? 0 : blocks;

  const Source source{x.row<const bfloat16>(0), x.stride, static_cast<int>(x.rows), static_cast<int>(x.cols)};
  launch(context, hessian_fused_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), kSharedBytes,
         source, work, reinterpret_cast<const float*>(there), reinterpret_cast<unsigned long long*>(sum));
}

}  // namespace gptq::cuda
