#include "base/error.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/solve_tasks.h"

namespace gptq::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 32;  // rows and columns transposed by one block
constexpr int kTileRows = kThreads / kTile;

/// One tile: reads along the source's rows, writes along the transposed rows, both coalesced.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    transpose_rows(const T* source, std::int64_t first, std::int64_t count, std::int64_t n, std::int64_t rows,
                   const int* position, const std::uint8_t* dead, float* w) {
  __shared__ float tile[kTile * (kTile + 1)];
  const int x = static_cast<int>(threadIdx.x) % kTile;
  const int y = static_cast<int>(threadIdx.x) / kTile;
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const std::int64_t column0 = static_cast<std::int64_t>(blockIdx.y) * kTile;
  for (int i = y; i < kTile; i += kTileRows) {
    const std::int64_t row = row0 + i;
    const std::int64_t column = column0 + x;
    if (row < count && column < n)
      tile[i * (kTile + 1) + x] = dead[column] != 0 ? 0.0f : to_float(source[row * n + column]);
  }
  __syncthreads();
  for (int i = y; i < kTile; i += kTileRows) {
    const std::int64_t row = row0 + x;
    const std::int64_t column = column0 + i;
    if (row < count && column < n) w[position[column] * rows + first + row] = tile[x * (kTile + 1) + i];
  }
}

/// A warp a row; double precision, as there is one product for the many of the solve.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    sum_squares(const T* source, std::int64_t first, std::int64_t count, std::int64_t n,
                const std::uint8_t* dead, double* norm, double* dead_norm) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (row >= count) return;  // whole warps
  double all = 0;
  double unused = 0;
  for (std::int64_t c = threadIdx.x % 32; c < n; c += 32) {
    const double value = to_float(source[row * n + c]);
    all += value * value;
    if (dead[c] != 0) unused += value * value;
  }
  all = warp_sum(all);
  unused = warp_sum(unused);
  if (threadIdx.x % 32 == 0) {
    norm[first + row] = all;
    dead_norm[first + row] = unused;
  }
}

constexpr int kCodeTile = 64;

/// One tile of 64 rows and columns, four codes a thread at a time.
__global__ void __launch_bounds__(kThreads)
    transpose_codes(const std::uint8_t* codes, std::int64_t n, std::int64_t rows, std::int64_t count,
                    const int* position, std::uint8_t* out) {
  __shared__ std::uint8_t tile[kCodeTile * (kCodeTile + 4)];
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * kCodeTile;
  const std::int64_t column0 = static_cast<std::int64_t>(blockIdx.y) * kCodeTile;
  constexpr int kWords = kCodeTile / 4;
  for (int i = static_cast<int>(threadIdx.x); i < kCodeTile * kWords; i += kThreads) {
    const int column = i / kWords;
    if (column0 + column >= n) continue;
    // `rows` is a multiple of 128: whole words, and the last ones hold codes of padding.
    const auto four =
        *reinterpret_cast<const uchar4*>(codes + position[column0 + column] * rows + row0 + i % kWords * 4);
    std::uint8_t* const to = tile + i % kWords * 4 * (kCodeTile + 4) + column;
    to[0] = four.x;
    to[kCodeTile + 4] = four.y;
    to[2 * (kCodeTile + 4)] = four.z;
    to[3 * (kCodeTile + 4)] = four.w;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kCodeTile * kCodeTile; i += kThreads) {
    const int row = i / kCodeTile;
    const int column = i % kCodeTile;
    if (row0 + row < count && column0 + column < n)
      out[(row0 + row) * n + column0 + column] = tile[row * (kCodeTile + 4) + column];
  }
}

/// The other way: (count, n) in the original order to (n, rows) in visiting order, from row `first` on.
__global__ void __launch_bounds__(kThreads)
    spread_codes(const std::uint8_t* codes, std::int64_t first, std::int64_t count, std::int64_t n,
                 std::int64_t rows, const int* position, std::uint8_t* out) {
  __shared__ std::uint8_t tile[kCodeTile * (kCodeTile + 4)];
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * kCodeTile;
  const std::int64_t column0 = static_cast<std::int64_t>(blockIdx.y) * kCodeTile;
  for (int i = static_cast<int>(threadIdx.x); i < kCodeTile * kCodeTile; i += kThreads) {
    const int row = i / kCodeTile;
    const int column = i % kCodeTile;
    if (row0 + row < count && column0 + column < n)
      tile[row * (kCodeTile + 4) + column] = codes[(row0 + row) * n + column0 + column];
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kCodeTile * kCodeTile; i += kThreads) {
    const int column = i / kCodeTile;
    const int row = i % kCodeTile;
    if (row0 + row < count && column0 + column < n)
      out[position[column0 + column] * rows + first + row0 + row] = tile[row * (kCodeTile + 4) + column];
  }
}

__global__ void __launch_bounds__(kThreads)
    transpose_scales(const float* scale, const float* zero, std::int64_t groups, std::int64_t rows,
                     std::int64_t count, std::uint16_t* scale_out, std::uint8_t* zero_out) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= count) return;
  for (std::int64_t group = blockIdx.y; group < groups; group += gridDim.y) {
    const float value = scale[group * rows + row];
    scale_out[row * groups + group] = __half_as_ushort(__float2half_rn(value));
    zero_out[row * groups + group] = static_cast<std::uint8_t>(static_cast<int>(zero[group * rows + row]));
  }
}

__global__ void __launch_bounds__(kThreads)
    spread_scales(const std::uint16_t* scales, const std::uint8_t* zeros, std::int64_t groups,
                  std::int64_t rows, std::int64_t at, std::int64_t count, std::int64_t end, float* scale,
                  float* zero) {
  const std::int64_t local = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at + local >= end) return;
  const bool exists = local < count;
  for (std::int64_t group = blockIdx.y; group < groups; group += gridDim.y) {
    const std::int64_t from = local * groups + group, to = group * rows + at + local;
    scale[to] = exists ? __half2float(__ushort_as_half(scales[from])) : 1.0f;
    zero[to] = exists ? static_cast<float>(zeros[from]) : 0.0f;
  }
}

template <typename T>
void load(const CudaContext& context, const SolveSource& source, std::int64_t n, std::int64_t rows,
          const int* position, const std::uint8_t* dead, float* w, double* norm, double* dead_norm) {
  const T* const data = static_cast<const T*>(source.data);
  const dim3 tiles(blocks_for(source.count, kTile), blocks_for(n, kTile));
  launch(context, transpose_rows<T>, tiles, dim3(kThreads), 0, data, source.first, source.count, n, rows,
         position, dead, w);
  if (norm == nullptr) return;
  launch(context, sum_squares<T>, dim3(blocks_for(source.count, kThreads / 32)), dim3(kThreads), 0, data,
         source.first, source.count, n, dead, norm, dead_norm);
}

}  // namespace

void load_rows(const CudaContext& context, const SolveSource& source, std::int64_t n, std::int64_t rows,
               const int* position, const std::uint8_t* dead, float* w, double* norm, double* dead_norm) {
  switch (source.dtype) {
    case DType::f32:
      return load<float>(context, source, n, rows, position, dead, w, norm, dead_norm);
    case DType::bf16:
      return load<bfloat16>(context, source, n, rows, position, dead, w, norm, dead_norm);
    case DType::f16:
      return load<__half>(context, source, n, rows, position, dead, w, norm, dead_norm);
    default:
      contract_violation("weights are of a floating type", __FILE__, __LINE__);
  }
}

void store_codes(const CudaContext& context, const std::uint8_t* codes, std::int64_t n, std::int64_t rows,
                 std::int64_t count, const int* position, std::uint8_t* out) {
  launch(context, transpose_codes, dim3(blocks_for(count, kCodeTile), blocks_for(n, kCodeTile)),
         dim3(kThreads), 0, codes, n, rows, count, position, out);
}

void load_codes(const CudaContext& context, const std::uint8_t* codes, std::int64_t first, std::int64_t count,
                std::int64_t n, std::int64_t rows, const int* position, std::uint8_t* out) {
  launch(context, spread_codes, dim3(blocks_for(count, kCodeTile), blocks_for(n, kCodeTile)), dim3(kThreads),
         0, codes, first, count, n, rows, position, out);
}

void store_scales(const CudaContext& context, const float* scale, const float* zero, std::int64_t groups,
                  std::int64_t rows, std::int64_t count, std::uint16_t* scale_out, std::uint8_t* zero_out) {
  const auto group_blocks = static_cast<unsigned>(groups < 65535 ? groups : 65535);
  launch(context, transpose_scales, dim3(blocks_for(count, kThreads), group_blocks), dim3(kThreads), 0, scale,
         zero, groups, rows, count, scale_out, zero_out);
}

void load_scales(const CudaContext& context, const std::uint16_t* scales, const std::uint8_t* zeros,
                 std::int64_t groups, std::int64_t rows, std::int64_t at, std::int64_t count,
                 std::int64_t end, float* scale, float* zero) {
  const auto group_blocks = static_cast<unsigned>(groups < 65535 ? groups : 65535);
  launch(context, spread_scales, dim3(blocks_for(end - at, kThreads), group_blocks), dim3(kThreads), 0,
         scales, zeros, groups, rows, at, count, end, scale, zero);
}

}  // namespace gptq::cuda
