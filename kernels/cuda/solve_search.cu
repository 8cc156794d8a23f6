#include "kernels/cuda/solve_grid.cuh"

namespace gptq::cuda {
namespace {

constexpr int kRows = 32;    // of a block: one a lane
constexpr int kWarps = 16;   // 16 * 5 candidates: the usual 80 in one go
constexpr int kChunk = 128;  // columns whose errors are summed apart, as the CPU does

/// One block: 32 rows of one group. A thread has one row and every 16th candidate.
__global__ void __launch_bounds__(kRows* kWarps) search_group(const SolveSearchTask task) {
  __shared__ float values[kChunk * kRows];
  __shared__ float weights[kChunk];
  __shared__ float low_or_scale[kWarps * kRows];
  __shared__ float high_or_zero[kWarps * kRows];
  __shared__ float errors[kWarps * kRows];
  __shared__ int numbers[kWarps * kRows];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kRows;
  const int warp = thread / kRows;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kRows + lane;
  const auto codes = static_cast<float>(task.grid.max_code);

  for (int group = static_cast<int>(blockIdx.y); group < task.groups; group += static_cast<int>(gridDim.y)) {
    const int first = task.starts[group];
    const int count = task.starts[group + 1] - first;
    const auto column_of = [&](int k) -> std::int64_t {
      return task.positions == nullptr ? first + k : task.positions[first + k];
    };

    ScaleRange range;
    for (int k = warp; k < count; k += kWarps) range.add(task.values[column_of(k) * task.rows + row]);
    low_or_scale[thread] = range.low;
    high_or_zero[thread] = range.high;
    __syncthreads();
    for (int i = 0; i < kWarps; ++i) {
      range.add(low_or_scale[i * kRows + lane]);
      range.add(high_or_zero[i * kRows + lane]);
    }
    range.finish(task.grid.sym != 0);

    SearchBest best;
    for (int lot_first = 0; lot_first < task.grid.candidates; lot_first += kWarps * kSearchTogether) {
      SearchLot lot;
      float total[kSearchTogether] = {};
      lot.start(task.grid, range, lot_first + warp, kWarps);
      for (int begin = 0; begin < count && task.grid.candidates > 1; begin += kChunk) {
        const int columns = count - begin < kChunk ? count - begin : kChunk;
        __syncthreads();  // everyone is done with the last chunk
        for (int k = warp; k < columns; k += kWarps)
          values[k * kRows + lane] = task.values[column_of(begin + k) * task.rows + row];
        for (int k = thread; k < columns; k += kRows * kWarps) weights[k] = task.weight[column_of(begin + k)];
        __syncthreads();
        if (task.grid.norm == 2.0f) {
          for (int k = 0; k < columns; ++k)
            lot.add<true>(values[k * kRows + lane], weights[k], codes, task.grid.norm);
        } else {
          for (int k = 0; k < columns; ++k)
            lot.add<false>(values[k * kRows + lane], weights[k], codes, task.grid.norm);
        }
#pragma unroll
        for (int i = 0; i < kSearchTogether; ++i) {
          total[i] += lot.error[i];
          lot.error[i] = 0;
        }
      }
#pragma unroll
      for (int i = 0; i < kSearchTogether; ++i) {
        const int candidate = lot_first + warp + i * kWarps;
        if (candidate < task.grid.candidates) best.offer(total[i], candidate, lot.at[i], task.grid.norm);
      }
    }
    __syncthreads();  // the ranges have been read
    low_or_scale[thread] = best.at.scale;
    high_or_zero[thread] = best.at.zero;
    errors[thread] = best.error;
    numbers[thread] = best.candidate;
    __syncthreads();
    if (warp == 0) {
      for (int i = 1; i < kWarps; ++i) {
        const int other = i * kRows + lane;
        best.merge(errors[other], numbers[other], {low_or_scale[other], high_or_zero[other]});
      }
      const std::int64_t to = (task.first_group + group) * task.rows + row;
      task.scale[to] = best.at.scale;
      task.zero[to] = best.at.zero;
    }
    __syncthreads();  // the arrays are free for the next group
  }
}

}  // namespace

void search_groups(const CudaContext& context, const SolveSearchTask& task) {
  const auto groups = static_cast<unsigned>(task.groups < 65535 ? task.groups : 65535);
  launch(context, search_group, dim3(blocks_for(task.rows, kRows), groups), dim3(kRows * kWarps), 0, task);
}

}  // namespace gptq::cuda
