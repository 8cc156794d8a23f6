#include "kernels/cuda/refine_scale.cuh"
#include "kernels/cuda/refine_tasks.h"
#include "kernels/cuda/solve_warp.cuh"

/// One column batch of the refinement: scales of whole groups, then each column's best code; the work shared
/// as solve_warp.cuh says.
namespace gptq::cuda {
namespace {

constexpr std::size_t shared_bytes(int warps) {
  return (kTriangle + warps * kWarpFloats) * sizeof(float) +
         static_cast<std::size_t>(warps) * kWarpRows * kColumns;
}

struct BlockMemory {
  const float* h;       ///< (128, 128): the batch's block of H, zeros beyond it
  float* v;             ///< this warp's (8, kStride): g; columns that were just visited: their steps
  std::uint8_t* codes;  ///< this warp's (128, 8): as the batch found them
};

/// Sums eight rows' parts over the warp: every lane of a row gets the row's.
__device__ inline double sum_rows(double (&parts)[kWarpRows], int lane) {
#pragma unroll
  for (int apart = 16, half = kWarpRows / 2; half > 0; apart /= 2, half /= 2) {
    const bool upper = (lane & apart) != 0;
#pragma unroll
    for (int r = 0; r < half; ++r) {
      const double sent = upper ? parts[r] : parts[r + half];
      const double kept = upper ? parts[r + half] : parts[r];
      parts[r] = kept + __shfl_xor_sync(kAllLanes, sent, apart);
    }
  }
  double sum = parts[0];
  sum += __shfl_xor_sync(kAllLanes, sum, 2);
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
  return sum;
}

/// What a row's four lanes know of a part's scale.
struct RowScale {
  ScaleStep at;
  float zero;
};

/// all[r] = what the lanes of row r have.
__device__ inline void spread(float mine, float (&all)[kWarpRows]) {
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) all[r] = __shfl_sync(kAllLanes, mine, kLanes * r);
}

/// A part's units (code − zero) as the warp's codes give them.
struct Units {
  const std::uint8_t* codes;
  float origin[kWarpRows];  ///< 2^23 + zero

  __device__ Units(const BlockMemory& memory, float zero) : codes(memory.codes) {
    spread(zero + kWhole, origin);
  }
  /// Of all rows at one column of the batch.
  __device__ void load(int column, float (&units)[kWarpRows]) const {
    const uint2 eight = *reinterpret_cast<const uint2*>(codes + column * kWarpRows);
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      // A byte below the bits of 2^23 makes 2^23 + byte.
      const unsigned bits = __byte_perm(r < 4 ? eight.x : eight.y, 0x4b000000u, 0x7440u + r % 4);
      units[r] = __uint_as_float(bits) - origin[r];
    }
  }

  static constexpr float kWhole = 8388608.0f;  // 2^23
};

/// product = units of columns [first, last) · their rows of H, at columns [column, column + 4).
__device__ inline void multiply_units(const Units& units, const float* h, int first, int last, int column,
                                      float (&product)[kWarpRows][4]) {
#pragma unroll 4
  for (int k = first; k < last; ++k) {
    const float4 four = *reinterpret_cast<const float4*>(h + k * kColumns + column);
    const float factor[4] = {four.x, four.y, four.z, four.w};
    float x[kWarpRows];
    units.load(k, x);
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r)
#pragma unroll
      for (int c = 0; c < 4; ++c) product[r][c] = fmaf(x[r], factor[c], product[r][c]);
  }
}

/// Fits the scale of the group that is columns [first, last) and takes its step into their g.
__device__ inline void rescale_here(const BlockMemory& memory, int first, int last, int lane, RowScale& row) {
  const int column = 4 * lane;
  const Units units(memory, row.zero);
  float product[kWarpRows][4] = {};
  multiply_units(units, memory.h, first, last, column, product);

  double gain[kWarpRows] = {};
  double curve[kWarpRows] = {};
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    if (column + c < first || column + c >= last) continue;
    float unit[kWarpRows];
    units.load(column + c, unit);
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      const double g = memory.v[r * kStride + column + c];
      gain[r] = fma(static_cast<double>(unit[r]), g, gain[r]);
      curve[r] = fma(static_cast<double>(unit[r]), static_cast<double>(product[r][c]), curve[r]);
    }
  }
  const auto gain_of_row = static_cast<float>(sum_rows(gain, lane));
  const auto curve_of_row = static_cast<float>(sum_rows(curve, lane));
  row.at = best_scale(row.at.scale, gain_of_row, curve_of_row);

  float steps[kWarpRows];
  spread(row.at.step, steps);
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      float& v = memory.v[r * kStride + column + c];
      if (column + c >= first && column + c < last) v = fmaf(-product[r][c], steps[r], v);
    }
  }
  __syncwarp();
}

/// steps of columns [first, last) += what the new scale did to the old codes' values.
__device__ inline void add_scale_steps(const BlockMemory& memory, int first, int last, int lane,
                                       const RowScale& row) {
  const Units units(memory, row.zero);
  float steps[kWarpRows];
  spread(row.at.step, steps);
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const int column = 4 * lane + c;
    if (column < first || column >= last) continue;
    float unit[kWarpRows];
    units.load(column, unit);
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      float& v = memory.v[r * kStride + column];
      v = fmaf(unit[r], steps[r], v);
    }
  }
  __syncwarp();
}

/// Columns [first, first + count) of the batch, count <= 32, one after the other: each takes the best code,
/// given all others, if that lowers the objective. Leaves the steps in shared memory. True if a code changed.
__device__ inline bool descend_piece(const RefineBatchTask& task, const BlockMemory& memory,
                                     const RowLane& at, int first, int count, float common) {
  float* const v_row = memory.v + at.local * kStride + first + at.sub;
  const auto top = static_cast<float>(task.max_code);
  float v[kOwn], code[kOwn], scale[kOwn], inverse[kOwn], curve[kOwn];
#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
    const int own = kLanes * k + at.sub;
    const bool valid = own < count;
    v[k] = valid ? v_row[kLanes * k] : 0.0f;
    code[k] = valid ? static_cast<float>(memory.codes[(first + own) * kWarpRows + at.local]) : 0.0f;
    scale[k] = common;
    if (task.scattered != 0 && valid) scale[k] = task.scale[task.group[first + own] * task.rows + at.row];
    inverse[k] = 1.0f / scale[k];
    curve[k] = valid ? memory.h[(first + own) * (kColumns + 1)] : 1.0f;
  }

  unsigned changed = 0;  // bit k: own column k
#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
#pragma unroll
    for (int owner = 0; owner < kLanes; ++owner) {
      const int column = kLanes * k + owner;
      if (column < count) {  // the same for all
        // (Past the piece's last column these are any numbers of shared memory, for values that count no
        // more.)
        const float* const h = memory.h + (first + column) * kColumns + first + at.sub;
        float factor[kOwn];
#pragma unroll
        for (int later = k; later < kOwn; ++later) factor[later] = h[kLanes * later];
        // Every lane does it for a column of its own; the owner counts.
        const float reach = 1.0f / curve[k];
        float move = fmaf(__fmul_rn(v[k], reach), inverse[k], kNearest);
        move = fminf(fmaxf(move, kNearest - code[k]), kNearest + (top - code[k])) - kNearest;
        const float wanted = __fmul_rn(move, scale[k]);
        const float change = __fmul_rn(wanted, fmaf(wanted, curve[k], -(v[k] + v[k])));
        const bool better = change < 0.0f;
        const float mine = better ? wanted : 0.0f;
        if (at.sub == owner) {
          v_row[kLanes * k] = mine;
          if (better) {
            code[k] += move;
            changed |= 1u << k;
          }
        }
        const float passed = __shfl_sync(kAllLanes, mine, owner, kLanes);
#pragma unroll
        for (int later = k; later < kOwn; ++later) v[later] = fmaf(passed, -factor[later], v[later]);
      }
    }
  }

#pragma unroll
  for (int k = 0; k < kOwn; ++k)
    if ((changed >> k & 1u) != 0)
      task.codes[(first + kLanes * k + at.sub) * task.rows + at.row] =
          static_cast<std::uint8_t>(static_cast<int>(code[k]));
  __syncwarp();
  return changed != 0;
}

/// One part of the batch; true if a code or scale changed.
__device__ inline bool refine_part(const RefineBatchTask& task, const BlockMemory& memory, const RowLane& at,
                                   const SolvePart& part, int lane) {
  const int end = part.offset + part.count;
  RowScale row{{1.0f, 0.0f}, 0.0f};
  const bool rescale = task.rescale != 0 && part.search != 0;
  if (task.scattered == 0) {
    const std::int64_t place = task.group[part.offset] * task.rows + at.row;
    row = {{task.scale[place], 0.0f}, task.zero[place]};
    if (rescale) {
      rescale_here(memory, part.offset, end, lane, row);
      if (at.sub == 0 && row.at.step != 0.0f) task.scale[place] = row.at.scale;
    }
  }
  bool changed = row.at.step != 0.0f;
  for (int first = part.offset; first < end; first += kPiece) {
    const int count = end - first < kPiece ? end - first : kPiece;
    changed |= descend_piece(task, memory, at, first, count, row.at.scale);
    if (first + count < end) pass_on(memory.h, memory.v, first, first + count, end, lane);
  }
  if (rescale) add_scale_steps(memory, part.offset, end, lane, row);
  if (end < task.count) pass_on(memory.h, memory.v, part.offset, end, task.count, lane);
  return changed;
}

/// The batch's columns of g and codes of this warp's rows, into shared memory.
__device__ inline void load_batch(const RefineBatchTask& task, const BlockMemory& memory, std::int64_t row0,
                                  int lane) {
  float values[kWarpRows][4];
  load_columns(task.gradient + row0, task.rows, task.count, 4 * lane, values);
  store_quads(memory.v, 4 * lane, values);
  for (int column = lane; column < kColumns; column += 32) {
    const uint2 eight = column < task.count
                            ? *reinterpret_cast<const uint2*>(task.codes + column * task.rows + row0)
                            : make_uint2(0u, 0u);
    *reinterpret_cast<uint2*>(memory.codes + column * kWarpRows) = eight;
  }
  __syncwarp();
}

__global__ void __launch_bounds__(kMaxWarps * 32, 2) refine_batch(const RefineBatchTask task) {
  float* const h = dynamic_shared<float>();
  const int thread = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  float* const v = h + kTriangle;
  auto* const codes = reinterpret_cast<std::uint8_t*>(v + threads / 32 * kWarpFloats);
  const BlockMemory memory{h, v + warp * kWarpFloats, codes + warp * kWarpRows * kColumns};
  const std::int64_t row0 = (static_cast<std::int64_t>(blockIdx.x) * (threads / 32) + warp) * kWarpRows;
  const RowLane at{lane / kLanes, lane % kLanes, row0 + lane / kLanes};

#pragma unroll 8
  for (int i = thread; i < kTriangle; i += threads) {
    const int row = i / kColumns, column = i % kColumns;
    h[i] = row < task.count && column < task.count ? task.h[row * task.stride + column] : 0.0f;
  }
  load_batch(task, memory, row0, lane);
  __syncthreads();

  bool changed = false;
  for (int i = 0; i < task.part_count; ++i) changed |= refine_part(task, memory, at, task.parts[i], lane);
  if (__any_sync(kAllLanes, changed ? 1 : 0) != 0 && lane == 0) atomicOr(task.changed, 1);
  for (int item = lane; item < kColumns * kWarpRows; item += 32) {
    const int column = item / kWarpRows;
    const int local = item % kWarpRows;
    const float step = column < task.count ? -memory.v[local * kStride + column] : 0.0f;
    task.steps[column * task.rows + row0 + local] = step;
  }
}

}  // namespace

void refine_columns(const CudaContext& context, const RefineBatchTask& task) {
  const int warps = warps_for(context, task.rows);
  launch(context, refine_batch, dim3(static_cast<unsigned>(task.rows / (warps * kWarpRows))),
         dim3(static_cast<unsigned>(warps * 32)), shared_bytes(warps), task);
}

}  // namespace gptq::cuda
