#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/refine_tables.h"
#include "kernels/cuda/refine_tasks.h"
#include "kernels/cuda/solve_memory.h"
#include "kernels/cuda/solve_slice.h"

/// Coordinate descent on (w−q)·H·(w−q)ᵀ. Along with the codes g = (w−q)·H is kept up to date for all columns:
/// a batch's columns are visited by one kernel with the batch's block of H, and one product then carries
/// their steps to all of g. The terms of g are added in the order of the columns, as the CPU does.
namespace gptq::cuda {
namespace {

class SliceRefiner {
 public:
  SliceRefiner(CudaContext& context, const RefineTables& tables, const float* h, const RefineOptions& refine,
               std::int64_t rows);

  std::int64_t rows() const { return rows_; }
  /// Rows [first, first + count) of the parts laid one behind the other, count <= rows().
  void refine(std::span<const RowsToSolve> parts, std::int64_t first, std::int64_t count,
              std::span<QuantizedRows> results);

 private:
  void load(std::span<const PartRows> slice, std::span<const QuantizedRows> results);
  void load_codes_of(const PartRows& rows, const QuantizedRows& result);
  void copy(const DeviceBuffer& to, const DeviceBuffer& from);
  void measure(const RefineFigures& figures);
  bool sweep(bool last);
  void rescale_ahead(int group);
  void visit_batch(std::size_t index, bool last);
  void multiply(const float* x, const float* b, const int* b_rows, std::int64_t depth,
                std::int64_t first_column, bool accumulate, const DeviceBuffer& out);
  void store(std::span<const PartRows> slice, std::int64_t count, std::span<QuantizedRows> results);
  void store_figures(std::span<const PartRows> slice, std::span<QuantizedRows> results);

  enum Figure {
    kObjective,
    kStart,
    kDistance,
    kDeadNorm,
    kTerms,
    kNewObjective,
    kNewDistance,
    kNewTerms,
    kFigures
  };
  double* figure(Figure number) { return figures_.as<double>() + number * rows_; }
  RefineFigures before() { return {figure(kObjective), figure(kTerms), figure(kDistance)}; }
  RefineFigures after() { return {figure(kNewObjective), figure(kNewTerms), figure(kNewDistance)}; }
  RefineCodes codes() {
    return {rows_,
            n_,
            groups_,
            tables_.solve.group.as<int>(),
            codes_.as<std::uint8_t>(),
            scale_.as<float>(),
            zero_.as<float>()};
  }

  CudaContext& context_;
  const RefineTables& tables_;
  const float* h_;
  RefineOptions refine_;
  std::int64_t n_, groups_, rows_;
  DeviceBuffer w_;           ///< (n, rows): weights in visiting order; dead columns 0
  DeviceBuffer difference_;  ///< (n, rows): w − q; between two measurements a wide group's units·H
  DeviceBuffer gradient_;    ///< (n, rows): g; before and after, codes as they lie in host memory
  DeviceBuffer codes_, old_codes_, scale_, old_scale_, zero_;
  DeviceBuffer steps_;             ///< (128, rows)
  DeviceBuffer units_, step_;      ///< (widest, rows), (rows): of a wide group
  DeviceBuffer figures_, better_;  ///< (kFigures, rows), (rows)
};

SliceRefiner::SliceRefiner(CudaContext& context, const RefineTables& tables, const float* h,
                           const RefineOptions& refine, std::int64_t rows)
    : context_(context),
      tables_(tables),
      h_(h),
      refine_(refine),
      n_(tables.schedule.columns.n),
      groups_(tables.schedule.columns.groups),
      rows_(refine_slice_rows(rows, n_, groups_, tables.widest)) {
  const auto bytes = [&](std::int64_t count) {
    return context_.allocate(static_cast<std::size_t>(std::max<std::int64_t>(count, 1)));
  };
  const auto floats = [&](std::int64_t count) { return bytes(count * 4); };
  w_ = floats(n_ * rows_);
  difference_ = floats(n_ * rows_);
  gradient_ = floats(n_ * rows_);
  codes_ = bytes(n_ * rows_);
  old_codes_ = bytes(n_ * rows_);
  scale_ = floats(groups_ * rows_);
  old_scale_ = floats(groups_ * rows_);
  zero_ = floats(groups_ * rows_);
  steps_ = floats(kSolveTile * rows_);
  units_ = floats(tables.widest * rows_);
  step_ = floats(rows_);
  figures_ = bytes(kFigures * rows_ * 8);
  better_ = bytes(rows_);
}

void SliceRefiner::refine(std::span<const RowsToSolve> parts, std::int64_t first, std::int64_t count,
                          std::span<QuantizedRows> results) {
  const std::vector<PartRows> slice = rows_in_slice(parts, first, count);
  load(slice, results);
  measure(before());
  GPTQ_CUDA(cudaMemcpyAsync(figure(kStart), figure(kObjective), static_cast<std::size_t>(rows_) * 8,
                            cudaMemcpyDeviceToDevice, context_.stream()));
  bool changed = false;
  for (int s = 0; s < refine_.sweeps; ++s) {
    // A row in which nothing changes stays as it is in all later sweeps: ending early changes no bits.
    if (!sweep(s + 1 == refine_.sweeps)) break;
    changed = true;
  }
  if (changed) {
    measure(after());
    // A fall that single precision could have made up does not count: sums of n terms. The CPU's rule.
    const double noise = std::ldexp(std::sqrt(static_cast<double>(n_)), -23);
    keep_better(context_, codes(), old_codes_.as<std::uint8_t>(), old_scale_.as<float>(), noise, before(),
                after(), better_.as<std::uint8_t>());
  }
  store(slice, count, results);
}

void SliceRefiner::load(std::span<const PartRows> slice, std::span<const QuantizedRows> results) {
  for (const DeviceBuffer* buffer : {&w_, &codes_, &figures_})
    GPTQ_CUDA(cudaMemsetAsync(buffer->data(), 0, buffer->size(), context_.stream()));
  const SolveTables& solve = tables_.solve;
  SliceTarget target{n_, rows_, solve.position.as<int>(), solve.dead.as<std::uint8_t>(), w_.as<float>()};
  target.staging = difference_.data();  // not needed yet
  target.staging_bytes = difference_.size();
  target.norm = figure(kNewObjective);  // of no use here
  target.dead_norm = figure(kDeadNorm);
  load_slice(context_, target, slice);

  const ScaleTarget scales{groups_, rows_, scale_.as<float>(), zero_.as<float>()};
  for (const PartRows& rows : slice) {
    const QuantizedRows& result = results[rows.number];
    load_codes_of(rows, result);
    const std::int64_t end = &rows == &slice.back() ? rows_ : rows.at + rows.count;
    load_given_scales(context_, scales, result.scales.data() + rows.first * groups_,
                      result.zeros.data() + rows.first * groups_, rows.at, rows.count, end);
  }
  copy(old_codes_, codes_);
  copy(old_scale_, scale_);
}

void SliceRefiner::load_codes_of(const PartRows& rows, const QuantizedRows& result) {
  context_.upload(gradient_.data(), result.codes.data() + rows.first * n_,
                  static_cast<std::size_t>(rows.count * n_));
  load_codes(context_, gradient_.as<std::uint8_t>(), rows.at, rows.count, n_, rows_,
             tables_.solve.position.as<int>(), codes_.as<std::uint8_t>());
}

void SliceRefiner::copy(const DeviceBuffer& to, const DeviceBuffer& from) {
  GPTQ_CUDA(
      cudaMemcpyAsync(to.data(), from.data(), from.size(), cudaMemcpyDeviceToDevice, context_.stream()));
}

/// Of the codes and scales as they are; leaves a fresh g.
void SliceRefiner::measure(const RefineFigures& figures) {
  find_difference(context_, codes(), w_.as<float>(), h_, difference_.as<float>(), figures);
  multiply(difference_.as<float>(), h_, nullptr, n_, 0, false, gradient_);
  find_objective(context_, n_, rows_, difference_.as<float>(), gradient_.as<float>(), figures);
}

/// out (columns from first_column on) = or += xᵀ·b.
void SliceRefiner::multiply(const float* x, const float* b, const int* b_rows, std::int64_t depth,
                            std::int64_t first_column, bool accumulate, const DeviceBuffer& out) {
  WideProduct product;
  product.rows = rows_;
  product.n = n_;
  product.x = x;
  product.b = b;
  product.b_rows = b_rows;
  product.depth = depth;
  product.first_column = first_column;
  product.accumulate = accumulate;
  product.out = out.as<float>();
  multiply_wide(context_, product);
}

/// Once over all columns; false if nothing changed. After the last sweep nobody needs g.
bool SliceRefiner::sweep(bool last) {
  int changed = 0;
  void* const flag = context_.scratch(kScratchFlags, sizeof changed);
  GPTQ_CUDA(cudaMemsetAsync(flag, 0, sizeof changed, context_.stream()));
  if (refine_.refit_scales && tables_.scattered)
    for (int group = 0; group < static_cast<int>(groups_); ++group) rescale_ahead(group);
  for (std::size_t index = 0; index < tables_.schedule.batches.size(); ++index) {
    for (const SolveSegment& segment : tables_.schedule.batches[index].segments)
      if (refine_.refit_scales && segment.search_count > segment.count)
        rescale_ahead(tables_.schedule.group[static_cast<std::size_t>(segment.first)]);
    visit_batch(index, last);
  }
  context_.download(&changed, flag, sizeof changed);
  return changed != 0;
}

/// The scale of a group that lies in several batches: its step reaches g of all columns at once.
void SliceRefiner::rescale_ahead(int group) {
  const int width = tables_.width_of(group);
  if (width == 0) return;
  const int* const positions = tables_.positions_of(group);
  find_units(context_, codes(), positions, width, group, units_.as<float>());
  multiply(units_.as<float>(), h_, positions, width, 0, false, difference_);
  RefineScaleTask task;
  task.rows = rows_;
  task.n = n_;
  task.width = width;
  task.positions = positions;
  task.units = units_.as<float>();
  task.product = difference_.as<float>();
  task.gradient = gradient_.as<float>();
  task.scale = scale_.as<float>() + group * rows_;
  task.step = step_.as<float>();
  task.changed = static_cast<int*>(context_.scratch(kScratchFlags, sizeof(int)));
  rescale_group(context_, task);
}

void SliceRefiner::visit_batch(std::size_t index, bool last) {
  const SolveBatch& batch = tables_.schedule.batches[index];
  const SolveTables& solve = tables_.solve;
  RefineBatchTask task;
  task.rows = rows_;
  task.count = static_cast<int>(batch.count);
  task.gradient = gradient_.as<float>() + batch.first * rows_;
  task.h = h_ + batch.first * n_ + batch.first;
  task.stride = n_;
  task.parts = solve.parts.as<SolvePart>() + solve.first[index];
  task.part_count = static_cast<int>(batch.segments.size());
  task.rescale = refine_.refit_scales ? 1 : 0;
  task.scattered = tables_.scattered ? 1 : 0;
  task.group = solve.group.as<int>() + batch.first;
  task.scale = scale_.as<float>();
  task.zero = zero_.as<float>();
  task.max_code = tables_.schedule.max_code;
  task.codes = codes_.as<std::uint8_t>() + batch.first * rows_;
  task.steps = steps_.as<float>();
  task.changed = static_cast<int*>(context_.scratch(kScratchFlags, sizeof(int)));
  refine_columns(context_, task);
  multiply(steps_.as<float>(), h_ + batch.first * n_, nullptr, batch.count,
           last ? batch.first + batch.count : 0, true, gradient_);
}

void SliceRefiner::store(std::span<const PartRows> slice, std::int64_t count,
                         std::span<QuantizedRows> results) {
  std::uint8_t* const codes = gradient_.as<std::uint8_t>();  // no longer needed
  store_codes(context_, codes_.as<std::uint8_t>(), n_, rows_, count, tables_.solve.position.as<int>(), codes);
  const auto entries = static_cast<std::size_t>(count * groups_);
  const DeviceBuffer scales = context_.allocate(entries * sizeof(f16));
  const DeviceBuffer zeros = context_.allocate(entries);
  store_scales(context_, scale_.as<float>(), zero_.as<float>(), groups_, rows_, count,
               scales.as<std::uint16_t>(), zeros.as<std::uint8_t>());
  for (const PartRows& rows : slice) {
    QuantizedRows& result = results[rows.number];
    context_.download(result.codes.data() + rows.first * n_, codes + rows.at * n_,
                      static_cast<std::size_t>(rows.count * n_));
    context_.download(result.scales.data() + rows.first * groups_, scales.as<f16>() + rows.at * groups_,
                      static_cast<std::size_t>(rows.count * groups_) * sizeof(f16));
  }
  store_figures(slice, results);
}

void SliceRefiner::store_figures(std::span<const PartRows> slice, std::span<QuantizedRows> results) {
  std::vector<double> all(static_cast<std::size_t>((kDeadNorm + 1) * rows_));
  context_.download(all.data(), figures_.data(), all.size() * sizeof(double));
  for (const PartRows& rows : slice) {
    QuantizedRows& result = results[rows.number];
    for (std::int64_t r = 0; r < rows.count; ++r) {
      const auto row = static_cast<std::size_t>(rows.first + r);
      const auto at = [&](Figure number) {
        return all[static_cast<std::size_t>(number * rows_ + rows.at + r)];
      };
      result.solve_error[row] = std::max(0.0, at(kStart));
      result.output_error[row] = std::max(0.0, at(kObjective));
      result.weight_error[row] = at(kDistance) + at(kDeadNorm);
      if (!std::isfinite(at(kObjective) + at(kDistance)))
        throw NumericalError(
            fmt::runtime(
                "row {} of a layer gave NaN or infinity while its codes were refined: its weights hold "
                "such values, or are too large for single precision"),
            row);
    }
  }
}

}  // namespace

void CudaKernels::refine_rows(std::span<const RowsToSolve> parts, const SolveColumns& columns, const float* h,
                              const SolveOptions& options, const RefineOptions& refine,
                              std::span<QuantizedRows> rows) {
  GPTQ_EXPECT(rows.size() == parts.size() && h != nullptr && refine.sweeps >= 0);
  std::int64_t all = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto count = static_cast<std::size_t>(parts[i].weight.rows);
    GPTQ_EXPECT(parts[i].weight.cols == columns.n && rows[i].rows == parts[i].weight.rows);
    GPTQ_EXPECT(rows[i].codes.size() == count * static_cast<std::size_t>(columns.n));
    GPTQ_EXPECT(rows[i].scales.size() == count * static_cast<std::size_t>(columns.groups));
    GPTQ_EXPECT(rows[i].zeros.size() == rows[i].scales.size());
    GPTQ_EXPECT(rows[i].solve_error.size() == count && rows[i].output_error.size() == count &&
                rows[i].weight_error.size() == count);
    all += parts[i].weight.rows;
  }
  const RefineTables tables(context_, columns, options);
  if (all == 0) return;
  SliceRefiner refiner(context_, tables, h, refine, all);
  for (std::int64_t first = 0; first < all; first += refiner.rows())
    refiner.refine(parts, first, std::min(refiner.rows(), all - first), rows);
}

}  // namespace gptq::cuda
