#include <algorithm>
#include <climits>
#include <vector>

#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/solve_memory.h"
#include "kernels/cuda/solve_slice.h"
#include "kernels/cuda/solve_tasks.h"

/// W + α·D·(R·Rᵀ)⁻¹, batch of columns by batch of columns. With A = D·R⁻ᵀ and Z = A·R⁻¹
///   A_B = (D_B − A_L·R_BLᵀ)·R_BB⁻ᵀ, from the last batch to the first; L: the columns later than B;
///   Z_B = (A_B − Z_P·R_PB)·R_BB⁻¹, from the first to the last; P: the columns before B.
/// Every product is the solve's, with the inverses of R's diagonal blocks as it has them.
namespace gptq::cuda {
namespace {

constexpr int kTile = 32;
constexpr int kTileRows = 8;

/// out (count, n) in the original order = w + alpha z, rows [first, first + count) of the slice; *bad becomes
/// the lowest row of the slice that holds NaN or infinity. One tile of 32 rows and columns.
__global__ void __launch_bounds__(kTile* kTileRows)
    store_corrected(const float* w, const float* z, double alpha, std::int64_t n, std::int64_t rows,
                    std::int64_t first, std::int64_t count, const int* position, float* out, int* bad) {
  __shared__ float tile[kTile * (kTile + 1)];
  const int x = static_cast<int>(threadIdx.x);
  const int y = static_cast<int>(threadIdx.y);
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const std::int64_t column0 = static_cast<std::int64_t>(blockIdx.y) * kTile;
  for (int i = y; i < kTile; i += kTileRows) {
    if (column0 + i >= n || row0 + x >= count) continue;
    const std::int64_t place = position[column0 + i] * rows + first + row0 + x;
    // Without a correction even the sign of a zero stays.
    const float value =
        alpha == 0.0 ? w[place] : static_cast<float>(fma(alpha, static_cast<double>(z[place]), w[place]));
    constexpr int kInfinity = 0x7f800000;
    if ((__float_as_int(value) & kInfinity) == kInfinity) atomicMin(bad, static_cast<int>(first + row0 + x));
    tile[i * (kTile + 1) + x] = value;
  }
  __syncthreads();
  for (int i = y; i < kTile; i += kTileRows)
    if (row0 + i < count && column0 + x < n) out[(row0 + i) * n + column0 + x] = tile[x * (kTile + 1) + i];
}

/// z = wanted − z for rows [first, first + count) of the slice. wanted: (count, n), original order.
__global__ void __launch_bounds__(kTile* kTileRows)
    subtract_from_wanted(const float* wanted, std::int64_t n, std::int64_t rows, std::int64_t first,
                         std::int64_t count, const int* position, float* z) {
  __shared__ float tile[kTile * (kTile + 1)];
  const int x = static_cast<int>(threadIdx.x);
  const int y = static_cast<int>(threadIdx.y);
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const std::int64_t column0 = static_cast<std::int64_t>(blockIdx.y) * kTile;
  for (int i = y; i < kTile; i += kTileRows)
    if (row0 + i < count && column0 + x < n) tile[i * (kTile + 1) + x] = wanted[(row0 + i) * n + column0 + x];
  __syncthreads();
  for (int i = y; i < kTile; i += kTileRows) {
    if (column0 + i >= n || row0 + x >= count) continue;
    float& value = z[position[column0 + i] * rows + first + row0 + x];
    value = tile[x * (kTile + 1) + i] - value;
  }
}

template <typename T>
DeviceBuffer to_device(CudaContext& context, const std::vector<T>& values) {
  DeviceBuffer buffer = context.allocate(values.size() * sizeof(T));
  context.upload(buffer.data(), values.data(), values.size() * sizeof(T));
  return buffer;
}

/// What all slices of one call share, on the device.
struct CorrectionTables {
  DeviceBuffer position, no_dead, inverse;
  std::int64_t batches;

  CorrectionTables(CudaContext& context, const SolveColumns& columns, const float* r)
      : batches(round_up(columns.n, kSolveTile) / kSolveTile) {
    std::vector<std::int32_t> at(static_cast<std::size_t>(columns.n));
    for (std::int64_t p = 0; p < columns.n; ++p)
      at[static_cast<std::size_t>(columns.order[static_cast<std::size_t>(p)])] = static_cast<std::int32_t>(p);
    position = to_device(context, at);
    no_dead = to_device(context, std::vector<std::uint8_t>(at.size(), 0));
    std::vector<int> firsts, counts;
    for (std::int64_t first = 0; first < columns.n; first += kSolveTile) {
      firsts.push_back(static_cast<int>(first));
      counts.push_back(static_cast<int>(std::min<std::int64_t>(kSolveTile, columns.n - first)));
    }
    const DeviceBuffer firsts_there = to_device(context, firsts), counts_there = to_device(context, counts);
    const auto triangles = static_cast<std::size_t>(batches);
    inverse = context.allocate(triangles * kSolveTile * kSolveTile * sizeof(float));
    const DeviceBuffer pivot = context.allocate(triangles * kSolveTile * sizeof(float));
    invert_triangles(context, r, columns.n, firsts_there.as<int>(), counts_there.as<int>(),
                     static_cast<int>(batches), inverse.as<float>(), pivot.as<float>());
  }
};

class SliceCorrector {
 public:
  SliceCorrector(CudaContext& context, const SolveColumns& columns, const float* m, const float* r,
                 double alpha, std::int64_t rows);

  std::int64_t rows() const { return rows_; }
  /// Rows [first, first + count) of the parts laid one behind the other, count <= rows().
  void correct(std::span<const RowsToSolve> parts, std::int64_t first, std::int64_t count,
               std::span<HostTensor> results);

 private:
  struct Batch {
    std::int64_t number, first, count;
  };
  Batch batch(std::int64_t number) const {
    const std::int64_t first = number * kSolveTile;
    return {number, first, std::min<std::int64_t>(kSolveTile, n_ - first)};
  }
  void load(std::span<const PartRows> slice);
  void multiply_by_m();
  void subtract_from_wanted_of(std::span<const PartRows> slice);
  void solve_backward(const Batch& batch);
  void solve_forward(const Batch& batch);
  void multiply(const float* x, std::int64_t depth, const float* b, std::int64_t stride, bool transposed,
                const Batch& batch);
  void fold(std::int64_t depth, const Batch& batch, const float* base, float* out, int width);
  void multiply_triangle(const Batch& batch, bool transposed);
  void store(std::span<const PartRows> slice, std::span<HostTensor> results);
  void store_part(const PartRows& rows, HostTensor& result, int* bad);

  float* w_at(std::int64_t position) { return w_.as<float>() + position * rows_; }
  float* z_at(std::int64_t position) { return z_.as<float>() + position * rows_; }

  CudaContext& context_;
  const float* m_;
  const float* r_;
  double alpha_;
  std::int64_t n_, rows_;
  CorrectionTables tables_;
  DeviceBuffer w_;     ///< (columns rounded up to 16, rows): weights in visiting order, zeros behind
  DeviceBuffer z_;     ///< the same of what is being solved: W·M becomes D, that A, and that Z
  DeviceBuffer step_;  ///< (128, rows): one batch's columns before they meet their triangle
  DeviceBuffer partial_, packed_;
};

SliceCorrector::SliceCorrector(CudaContext& context, const SolveColumns& columns, const float* m,
                               const float* r, double alpha, std::int64_t rows)
    : context_(context),
      m_(m),
      r_(r),
      alpha_(alpha),
      n_(columns.n),
      rows_(correct_slice_rows(rows, columns.n)),
      tables_(context, columns, r) {
  const auto floats = [&](std::int64_t count) {
    return context_.allocate(static_cast<std::size_t>(count) * sizeof(float));
  };
  w_ = floats(round_up(n_, 16) * rows_);
  z_ = floats(round_up(n_, 16) * rows_);
  step_ = floats(kSolveTile * rows_);
  partial_ = floats(solve_chunks(n_) * rows_ * kSolveTile);
  packed_ = floats(std::max<std::int64_t>(round_up(n_, 16), kSolveTile) * kSolveTile);
}

void SliceCorrector::correct(std::span<const RowsToSolve> parts, std::int64_t first, std::int64_t count,
                             std::span<HostTensor> results) {
  const std::vector<PartRows> slice = rows_in_slice(parts, first, count);
  load(slice);
  if (alpha_ != 0) {
    multiply_by_m();
    subtract_from_wanted_of(slice);
    for (std::int64_t number = tables_.batches; number-- > 0;) solve_backward(batch(number));
    for (std::int64_t number = 0; number < tables_.batches; ++number) solve_forward(batch(number));
  }
  store(slice, results);
}

void SliceCorrector::load(std::span<const PartRows> slice) {
  GPTQ_CUDA(cudaMemsetAsync(w_.data(), 0, w_.size(), context_.stream()));
  SliceTarget target{n_, rows_, tables_.position.as<int>(), tables_.no_dead.as<std::uint8_t>(),
                     w_.as<float>()};
  target.staging = z_.data();  // not needed yet
  target.staging_bytes = z_.size();
  load_slice(context_, target, slice);
  GPTQ_CUDA(cudaMemsetAsync(z_.data(), 0, z_.size(), context_.stream()));
}

/// partial = xᵀ·b for the columns of a batch.
void SliceCorrector::multiply(const float* x, std::int64_t depth, const float* b, std::int64_t stride,
                              bool transposed, const Batch& batch) {
  SolveProduct product;
  product.rows = rows_;
  product.x = x;
  product.b = b;
  product.stride = stride;
  product.transposed = transposed;
  product.depth = depth;
  product.count = static_cast<int>(batch.count);
  product.packed = packed_.as<float>();
  product.partial = partial_.as<float>();
  multiply_columns(context_, product);
}

/// out = base - partial, or partial without base; `depth` is the product's.
void SliceCorrector::fold(std::int64_t depth, const Batch& batch, const float* base, float* out, int width) {
  SolveFold fold;
  fold.rows = rows_;
  fold.partial = partial_.as<float>();
  fold.chunks = solve_chunks(depth);
  fold.count = static_cast<int>(batch.count);
  fold.base = base;
  fold.out = out;
  fold.width = width;
  fold_parts(context_, fold);
}

/// z_B = step · R_BB⁻¹, or its transpose.
void SliceCorrector::multiply_triangle(const Batch& batch, bool transposed) {
  const float* const inverse = tables_.inverse.as<float>() + batch.number * kSolveTile * kSolveTile;
  multiply(step_.as<float>(), kSolveTile, inverse, kSolveTile, transposed, batch);
  fold(kSolveTile, batch, nullptr, z_at(batch.first), static_cast<int>(batch.count));
}

/// z = W·M
void SliceCorrector::multiply_by_m() {
  WideProduct product;
  product.rows = rows_;
  product.n = n_;
  product.x = w_.as<float>();
  product.b = m_;
  product.depth = n_;
  product.out = z_.as<float>();
  multiply_wide(context_, product);
}

void SliceCorrector::subtract_from_wanted_of(std::span<const PartRows> slice) {
  for (const PartRows& rows : slice) {
    const float* const wanted = rows.part->wanted;
    if (wanted == nullptr) continue;
    launch(context_, subtract_from_wanted, dim3(blocks_for(rows.count, kTile), blocks_for(n_, kTile)),
           dim3(kTile, kTileRows), 0, wanted + rows.first * n_, n_, rows_, rows.at, rows.count,
           tables_.position.as<int>(), z_.as<float>());
  }
}

void SliceCorrector::solve_backward(const Batch& batch) {
  const std::int64_t later = batch.first + batch.count;
  if (later < n_) multiply(z_at(later), n_ - later, r_ + batch.first * n_ + later, n_, true, batch);
  fold(n_ - later, batch, z_at(batch.first), step_.as<float>(), kSolveTile);
  multiply_triangle(batch, true);
}

void SliceCorrector::solve_forward(const Batch& batch) {
  if (batch.first > 0) multiply(z_.as<float>(), batch.first, r_ + batch.first, n_, false, batch);
  fold(batch.first, batch, z_at(batch.first), step_.as<float>(), kSolveTile);
  multiply_triangle(batch, false);
}

void SliceCorrector::store(std::span<const PartRows> slice, std::span<HostTensor> results) {
  auto* const bad = static_cast<int*>(context_.scratch(kScratchFlags, sizeof(int)));
  int lowest = INT_MAX;
  context_.upload(bad, &lowest, sizeof lowest);
  for (const PartRows& rows : slice) store_part(rows, results[rows.number], bad);
  context_.download(&lowest, bad, sizeof lowest);
  for (const PartRows& rows : slice) {
    if (lowest < rows.at || lowest >= rows.at + rows.count) continue;
    throw NumericalError(
        fmt::runtime(
            "row {} of a layer gave NaN or infinity while it was corrected for the errors of earlier "
            "layers; its weights hold such values, or the Hessian needs more damping "
            "(quantization.damp_percent)"),
        rows.first + lowest - rows.at);
  }
}

/// In pieces that fit into the memory of the products.
void SliceCorrector::store_part(const PartRows& rows, HostTensor& result, int* bad) {
  const auto fit =
      static_cast<std::int64_t>(partial_.size() / (static_cast<std::size_t>(n_) * sizeof(float)));
  for (std::int64_t done = 0; done < rows.count; done += fit) {
    const std::int64_t count = std::min(fit, rows.count - done);
    launch(context_, store_corrected, dim3(blocks_for(count, kTile), blocks_for(n_, kTile)),
           dim3(kTile, kTileRows), 0, w_.as<float>(), z_.as<float>(), alpha_, n_, rows_, rows.at + done,
           count, tables_.position.as<int>(), partial_.as<float>(), bad);
    context_.download(result.matrix().row<float>(rows.first + done), partial_.data(),
                      static_cast<std::size_t>(count * n_) * sizeof(float));
  }
}

}  // namespace

std::vector<HostTensor> CudaKernels::correct_rows(std::span<const RowsToSolve> parts,
                                                  const SolveColumns& columns, const float* m, const float* r,
                                                  double alpha) {
  GPTQ_EXPECT(static_cast<std::int64_t>(columns.order.size()) == columns.n && columns.n > 0);
  std::int64_t rows = 0;
  std::vector<HostTensor> results;
  for (const RowsToSolve& part : parts) {
    GPTQ_EXPECT(part.weight.cols == columns.n);
    rows += part.weight.rows;
    results.push_back(make_tensor(DType::f32, {part.weight.rows, columns.n}));
  }
  if (rows == 0) return results;
  SliceCorrector corrector(context_, columns, m, r, alpha, rows);
  for (std::int64_t first = 0; first < rows; first += corrector.rows())
    corrector.correct(parts, first, std::min(corrector.rows(), rows - first), results);
  return results;
}

}  // namespace gptq::cuda
