#include "kernels/cpu/isa/solve_parts.h"
#include "kernels/cpu/isa/solve_vector.h"

namespace gptq::GPTQ_ISA {
namespace {

constexpr long kTile = 4;
// Vectors of rows held in registers beside the tile's columns: kTile * kWide accumulators.
constexpr long kWide = kLanes == 16 ? 4 : 2;

void multiply_tile(const float* x, const float* packed, long k, bool accumulate, float* c) {
  for (long v = 0; v < kVectors; v += kWide) {
    Vector sum[kTile][kWide];
    for (long j = 0; j < kTile; ++j)
      for (long i = 0; i < kWide; ++i)
        sum[j][i] = accumulate ? load_vector(c + j * kSolveRows + (v + i) * kLanes) : broadcast(0.0f);
    for (long row = 0; row < k; ++row) {
      Vector a[kWide];
      for (long i = 0; i < kWide; ++i) a[i] = load_vector(x + row * kSolveRows + (v + i) * kLanes);
      for (long j = 0; j < kTile; ++j) {
        const Vector b = broadcast(packed[row * kTile + j]);
        for (long i = 0; i < kWide; ++i) sum[j][i] = multiply_add(a[i], b, sum[j][i]);
      }
    }
    for (long j = 0; j < kTile; ++j)
      for (long i = 0; i < kWide; ++i) store_vector(c + j * kSolveRows + (v + i) * kLanes, sum[j][i]);
  }
}

}  // namespace

void multiply(const float* x, const float* packed, long k, long tiles, bool triangular, bool accumulate,
              float* c) {
  for (long t = 0; t < tiles; ++t) {
    const long reach = kTile * (t + 1);
    const long rows = triangular && reach < k ? reach : k;
    multiply_tile(x, packed + t * k * kTile, rows, accumulate, c + t * kTile * kSolveRows);
  }
}

void pack(const float* r, long stride, long k, long columns, float* packed) {
  constexpr long kLine = 4 * kTile;  // a cache line of r feeds four tiles
  for (long first = 0; first < columns; first += kLine) {
    const long whole = columns - first < kLine ? (columns - first) / kTile : kLine / kTile;
    const long rest = columns - first < kLine ? (columns - first) % kTile : 0;
    for (long row = 0; row < k; ++row) {
      const float* source = r + row * stride + first;
      float* target = packed + (first / kTile * k + row) * kTile;
      for (long t = 0; t < whole; ++t, source += kTile, target += k * kTile)
        _mm_storeu_ps(target, _mm_loadu_ps(source));
      for (long j = 0; rest > 0 && j < kTile; ++j) target[j] = j < rest ? source[j] : 0.0f;
    }
  }
}

void invert(const float* r, long stride, long n, double* work, float* inverse) {
  constexpr long kWidth = 8;  // rows of `work` are cut at multiples of it: whole vectors
  for (long i = n - 1; i >= 0; --i) {
    double row[kSolveBatch] = {};
    row[i] = 1.0;
    for (long k = i + 1; k < n; ++k) {
      const double factor = r[i * stride + k];
      const double* below = work + k * kSolveBatch;  // 0 before k
      for (long j = k / kWidth * kWidth; j < kSolveBatch; j += kWidth)
        for (long lane = 0; lane < kWidth; ++lane) row[j + lane] -= factor * below[j + lane];
    }
    const double scale = 1.0 / r[i * stride + i];
    for (long j = 0; j < kSolveBatch; ++j) work[i * kSolveBatch + j] = row[j] * scale;
  }
  constexpr long kTileRows = 16;  // of the transposition: their lines stay in the cache
  for (long first = 0; first < n; first += kTileRows)
    for (long j = 0; j < n; ++j)
      for (long i = first; i < n && i < first + kTileRows; ++i)
        inverse[j * kSolveBatch + i] = static_cast<float>(work[i * kSolveBatch + j]);
}

void add_squares(const float* x, long columns, double* sums) {
  float part[kSolveRows] = {};
  for (long c = 0; c < columns; ++c)
    for (long r = 0; r < kSolveRows; ++r) part[r] += x[c * kSolveRows + r] * x[c * kSolveRows + r];
  for (long r = 0; r < kSolveRows; ++r) sums[r] += part[r];
}

}  // namespace gptq::GPTQ_ISA
