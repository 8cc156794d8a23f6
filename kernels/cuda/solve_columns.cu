#include "kernels/cuda/solve_grid.cuh"
#include "kernels/cuda/solve_warp.cuh"

/// One column batch of the solve: the up-to-date weights V, the groups' scales, the codes and their errors;
/// the work shared as solve_warp.cuh says. A lane quantizes its own columns and tells the error to the row's
/// other three by a shuffle; the columns after a piece get the piece's errors in one product.
namespace gptq::cuda {
namespace {

constexpr std::size_t shared_bytes(int warps) {
  return (kTriangle + 2 * kColumns + warps * kWarpFloats) * sizeof(float);
}

struct BlockMemory {
  const float* triangle;  ///< U (128, 128)
  const float* pivot;     ///< (128)
  const float* weight;    ///< (128)
  float* v;               ///< this warp's (8, kStride): V; columns that were just quantized: their errors
};

/// V = W_B + (sum of the partial products) · U, into shared memory.
__device__ inline void update_values(const SolveBatchTask& task, const BlockMemory& memory, std::int64_t row0,
                                     int lane) {
  const int column = 4 * lane;
  float values[kWarpRows][4];
  load_columns(task.w + row0, task.rows, task.count, column, values);
  if (task.chunks > 0) {
    for (int r = 0; r < kWarpRows; ++r) {
      const float* from = task.partial + (row0 + r) * kColumns + column;
      float4 total = *reinterpret_cast<const float4*>(from);
      for (int chunk = 1; chunk < task.chunks; ++chunk) {
        from += task.rows * kColumns;
        const float4 part = *reinterpret_cast<const float4*>(from);
        total = make_float4(total.x + part.x, total.y + part.y, total.z + part.z, total.w + part.w);
      }
      *reinterpret_cast<float4*>(memory.v + r * kStride + column) = total;
    }
    __syncwarp();
    add_product<false>(memory.triangle, memory.v, 0, task.count, column, values);
    __syncwarp();
  }
  store_quads(memory.v, column, values);
  __syncwarp();
}

/// Finds the scale of the group that is columns [first, first + count) of the batch; all 4 lanes of a row get
/// it. A lane tries every fourth candidate.
__device__ inline ScaleZero find_scale(const SolveGrid& grid, const BlockMemory& memory, const RowLane& at,
                                       int first, int count) {
  const float* const v = memory.v + at.local * kStride + first;
  const float* const weight = memory.weight + first;
  ScaleRange range;
  for (int k = 0; k < count; ++k) range.add(v[k]);
  range.finish(grid.sym != 0);
  if (grid.candidates == 1) return make_grid(grid, range, __ldg(grid.shrink));

  const auto codes = static_cast<float>(grid.max_code);
  SearchBest best;
  for (int begin = 0; begin < grid.candidates; begin += kLanes * kSearchTogether) {
    SearchLot lot;
    lot.start(grid, range, begin + at.sub, kLanes);
    if (grid.norm == 2.0f) {
      for (int k = 0; k < count; ++k) lot.add<true>(v[k], weight[k], codes, grid.norm);
    } else {
      for (int k = 0; k < count; ++k) lot.add<false>(v[k], weight[k], codes, grid.norm);
    }
#pragma unroll
    for (int i = 0; i < kSearchTogether; ++i) {
      const int candidate = begin + at.sub + i * kLanes;
      if (candidate < grid.candidates) best.offer(lot.error[i], candidate, lot.at[i], grid.norm);
    }
  }
#pragma unroll
  for (int apart = 1; apart < kLanes; apart *= 2) {
    const float error = __shfl_xor_sync(kAllLanes, best.error, apart);
    const int candidate = __shfl_xor_sync(kAllLanes, best.candidate, apart);
    const float scale = __shfl_xor_sync(kAllLanes, best.at.scale, apart);
    const float zero = __shfl_xor_sync(kAllLanes, best.at.zero, apart);
    best.merge(error, candidate, {scale, zero});
  }
  return best.at;
}

/// Square sums of a lane's columns. Single precision within a piece, double from piece to piece.
struct RowSums {
  double loss = 0;
  double distance = 0;
};

/// Quantizes columns [first, first + count) of the batch, count <= 32; `common`: their scale, unless
/// task.fixed. Leaves the errors in shared memory.
__device__ inline void quantize_piece(const SolveBatchTask& task, const BlockMemory& memory,
                                      const RowLane& at, int first, int count, const ScaleZero& common,
                                      RowSums& sums) {
  float* const v_row = memory.v + at.local * kStride + first + at.sub;
  const float* const w = task.w + (first + at.sub) * task.rows + at.row;
  const bool solved = task.inverse != nullptr;
  const auto top = static_cast<float>(task.grid.max_code);
  float v[kOwn], original[kOwn], scale[kOwn], inverse[kOwn], low[kOwn], error[kOwn], whole[kOwn];
#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
    const int own = kLanes * k + at.sub;
    const bool valid = own < count;
    v[k] = valid ? v_row[kLanes * k] : 0.0f;
    original[k] = valid ? w[kLanes * k * task.rows] : 0.0f;
    ScaleZero grid = common;
    if (task.fixed != 0 && valid) {
      const std::int64_t place = task.group[first + own] * task.rows + at.row;
      grid = {task.scale[place], task.zero[place]};
    }
    scale[k] = grid.scale;
    inverse[k] = 1.0f / grid.scale;
    low[k] = kNearest - grid.zero;
    error[k] = 0;
    whole[k] = 0;
  }

#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
#pragma unroll
    for (int owner = 0; owner < kLanes; ++owner) {
      const int column = kLanes * k + owner;
      if (column < count) {  // the same for all
        // (Past the piece's last column these are any numbers of shared memory, for values that count no
        // more.)
        const float* const u = memory.triangle + (first + column) * kColumns + first + at.sub;
        float factor[kOwn];
        if (solved) {
#pragma unroll
          for (int later = k; later < kOwn; ++later) factor[later] = u[kLanes * later];
        }
        // Rounded the same way as in the search. Every lane does it for a column of its own; the owner
        // counts.
        float rounded = fmaf(v[k], inverse[k], kNearest);
        rounded = fminf(fmaxf(rounded, low[k]), low[k] + top);
        const float code = rounded - kNearest;
        const float mine = __fmul_rn(fmaf(-code, scale[k], v[k]), memory.pivot[first + column]);
        if (at.sub == owner) {
          error[k] = mine;
          whole[k] = rounded;
        }
        if (solved) {
          const float passed = __shfl_sync(kAllLanes, mine, owner, kLanes);
#pragma unroll
          for (int later = k; later < kOwn; ++later) v[later] = fmaf(passed, -factor[later], v[later]);
        }
      }
    }
  }

  float loss = 0;
  float distance = 0;
#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
    const int own = kLanes * k + at.sub;
    if (own < count) {
      const std::int64_t place = (first + own) * task.rows + at.row;
      const float difference = fmaf(-(whole[k] - kNearest), scale[k], original[k]);
      loss = fmaf(error[k], error[k], loss);
      distance = fmaf(difference, difference, distance);
      v_row[kLanes * k] = error[k];
      task.difference[place] = difference;
      task.codes[place] = static_cast<std::uint8_t>(static_cast<int>(whole[k] - low[k]));
    }
  }
  sums.loss += loss;
  sums.distance += distance;
  __syncwarp();
}

__device__ inline void solve_part(const SolveBatchTask& task, const BlockMemory& memory, const RowLane& at,
                                  const SolvePart& part, int lane, RowSums& sums) {
  ScaleZero common{1.0f, 0.0f};
  if (task.fixed == 0) {
    const std::int64_t place = task.group[part.offset] * task.rows + at.row;
    if (part.search != 0 && task.given == 0) {
      common = find_scale(task.grid, memory, at, part.offset, part.count);
      __syncwarp();  // all four lanes have read the row's values, which are overwritten next
      if (at.sub == 0) {
        task.scale[place] = common.scale;
        task.zero[place] = common.zero;
      }
    } else {
      common = {task.scale[place], task.zero[place]};
    }
  }
  const int end = part.offset + part.count;
  for (int first = part.offset; first < end; first += kPiece) {
    const int count = end - first < kPiece ? end - first : kPiece;
    quantize_piece(task, memory, at, first, count, common, sums);
    if (task.inverse != nullptr && first + count < task.count)
      pass_on(memory.triangle, memory.v, first, first + count, kColumns, lane);
  }
}

/// V itself, and the difference that a solve without errors would leave: for groups wider than a batch.
__device__ inline void write_ahead(const SolveBatchTask& task, const BlockMemory& memory, std::int64_t row0,
                                   int lane) {
  for (int item = lane; item < task.ahead_count * kWarpRows; item += 32) {
    const int column = item / kWarpRows;
    const int local = item % kWarpRows;
    const std::int64_t place = column * task.rows + row0 + local;
    const float value = memory.v[local * kStride + column];
    task.ahead[place] = value;
    task.difference[place] = task.w[place] - value;
  }
}

/// The lanes' sums into the row's. The batch's own sum is formed first.
__device__ inline void add_sums(const SolveBatchTask& task, const RowLane& at, RowSums sums) {
#pragma unroll
  for (int apart = 1; apart < kLanes; apart *= 2) {
    sums.loss += __shfl_xor_sync(kAllLanes, sums.loss, apart);
    sums.distance += __shfl_xor_sync(kAllLanes, sums.distance, apart);
  }
  if (at.sub == 0) {
    task.loss[at.row] += sums.loss;
    task.distance[at.row] += sums.distance;
  }
}

__global__ void __launch_bounds__(kMaxWarps * 32, 2) solve_batch(const SolveBatchTask task) {
  float* const shared = dynamic_shared<float>();
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  float* const pivot = shared + kTriangle;
  float* const weight = pivot + kColumns;
  const BlockMemory memory{shared, pivot, weight, weight + kColumns + warp * kWarpFloats};
  const std::int64_t row0 = (static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / 32) + warp) * kWarpRows;
  const RowLane at{lane / kLanes, lane % kLanes, row0 + lane / kLanes};

  if (task.inverse != nullptr) {
    for (int i = thread * 4; i < kTriangle; i += static_cast<int>(blockDim.x) * 4)
      *reinterpret_cast<float4*>(shared + i) = *reinterpret_cast<const float4*>(task.inverse + i);
  }
  for (int i = thread; i < kColumns; i += static_cast<int>(blockDim.x)) {
    pivot[i] = task.pivot != nullptr && i < task.count ? task.pivot[i] : 0.0f;
    weight[i] = i < task.count ? task.weight[i] : 0.0f;
  }
  __syncthreads();

  update_values(task, memory, row0, lane);
  if (task.ahead != nullptr) {
    write_ahead(task, memory, row0, lane);
  } else {
    RowSums sums;
    for (int i = 0; i < task.part_count; ++i) solve_part(task, memory, at, task.parts[i], lane, sums);
    add_sums(task, at, sums);
  }
}

}  // namespace

void solve_columns(const CudaContext& context, const SolveBatchTask& task) {
  const int warps = warps_for(context, task.rows);
  launch(context, solve_batch, dim3(static_cast<unsigned>(task.rows / (warps * kWarpRows))),
         dim3(static_cast<unsigned>(warps * 32)), shared_bytes(warps), task);
}

}  // namespace gptq::cuda
