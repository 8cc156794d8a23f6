#include "kernels/cuda/solve_slice.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/cuda/cuda_linear.h"
#include "kernels/cuda/solve_tasks.h"

namespace gptq::cuda {
namespace {

void put(const CudaContext& context, const SliceTarget& target, const SolveSource& source) {
  load_rows(context, source, target.n, target.rows, target.position, target.dead, target.w, target.norm,
            target.dead_norm);
}

/// From the copy that the forward pass uses.
void load_prepared(const CudaContext& context, const SliceTarget& target, const PartRows& rows,
                   const CudaLinear& linear) {
  const DType dtype = rows.part->weight.dtype;
  GPTQ_EXPECT(linear.in_features() == target.n &&
              rows.part->first_row + rows.part->weight.rows <= linear.out_features());
  linear.wait();
  const std::int64_t first = (rows.part->first_row + rows.first) * target.n;
  put(context, target,
      {static_cast<const std::byte*>(linear.weights()) + static_cast<std::size_t>(first) * size_of(dtype),
       dtype, rows.at, rows.count});
}

/// In pieces that fit into the staging memory.
void load_part(CudaContext& context, const SliceTarget& target, const PartRows& rows) {
  const Matrix& weight = rows.part->weight;
  const std::size_t row_bytes = static_cast<std::size_t>(target.n) * size_of(weight.dtype);
  const auto fit = static_cast<std::int64_t>(target.staging_bytes / row_bytes);
  GPTQ_EXPECT(fit > 0);
  for (std::int64_t done = 0; done < rows.count; done += fit) {
    const std::int64_t count = std::min(fit, rows.count - done);
    const Matrix piece = weight.rows_from(rows.first + done, count);
    if (piece.stride == target.n) {
      context.upload(target.staging, piece.data, static_cast<std::size_t>(count) * row_bytes);
    } else {
      for (std::int64_t row = 0; row < count; ++row)
        context.upload(static_cast<std::byte*>(target.staging) + static_cast<std::size_t>(row) * row_bytes,
                       piece.rows_from(row, 1).data, row_bytes);
    }
    put(context, target, {target.staging, weight.dtype, rows.at + done, count});
  }
}

}  // namespace

std::vector<PartRows> rows_in_slice(std::span<const RowsToSolve> parts, std::int64_t first,
                                    std::int64_t count) {
  std::vector<PartRows> overlaps;
  std::int64_t part_first = 0;
  for (std::size_t number = 0; number < parts.size(); ++number) {
    const std::int64_t rows = parts[number].weight.rows;
    const std::int64_t begin = std::max(first, part_first);
    const std::int64_t end = std::min(first + count, part_first + rows);
    if (begin < end)
      overlaps.push_back({&parts[number], number, begin - part_first, end - begin, begin - first});
    part_first += rows;
  }
  return overlaps;
}

void load_slice(CudaContext& context, const SliceTarget& target, std::span<const PartRows> slice) {
  for (const PartRows& rows : slice) {
    const CudaLinear* prepared =
        rows.part->prepared == nullptr ? nullptr : &cuda_linear(*rows.part->prepared);
    if (prepared != nullptr && prepared->holds(rows.part->weight.dtype))
      load_prepared(context, target, rows, *prepared);
    else
      load_part(context, target, rows);
  }
}

void load_given_scales(CudaContext& context, const ScaleTarget& target, const f16* scales,
                       const std::uint8_t* zeros, std::int64_t at, std::int64_t count, std::int64_t end) {
  const auto entries = static_cast<std::size_t>(count * target.groups);
  const DeviceBuffer scales_there = context.allocate(entries * sizeof(f16));
  const DeviceBuffer zeros_there = context.allocate(entries);
  context.upload(scales_there.data(), scales, entries * sizeof(f16));
  context.upload(zeros_there.data(), zeros, entries);
  load_scales(context, scales_there.as<std::uint16_t>(), zeros_there.as<std::uint8_t>(), target.groups,
              target.rows, at, count, end, target.scale, target.zero);
}

}  // namespace gptq::cuda
